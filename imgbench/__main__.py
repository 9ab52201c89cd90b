"""The commands: `imgbench NAME ...` or `python -m imgbench.NAME ...`."""

import difflib
import runpy
import sys

from imgbench import __version__

COMMANDS = {
    "study": "from a folder to a report       imgbench study photos",
    "audit": "what makes a number untrue      imgbench audit photos",
    "train": "train a classifier              imgbench train photos",
    "summary": "layers, parameters, operations  imgbench summary model=vgg16 data=potato",
    "evaluate": "accuracy of a run               imgbench evaluate RUN [--data DIR]",
    "predict": "class of single images          imgbench predict RUN IMAGE...",
    "drift": "whether photographs change      imgbench drift RUN PHOTOGRAPHS",
    "compare": "runs side by side               imgbench compare RUN RUN...",
    "compress": "a smaller run of a run          imgbench compress RUN prune",
    "export": "one ONNX file for elsewhere     imgbench export RUN",
    "review": "put labels right, and go on     imgbench review RUN",
    "demo": "a page on which to try a run    imgbench demo RUN",
    "ladder": "ever lighter runs of a run      imgbench ladder RUN",
    "shard": "tars of thousands of images     imgbench shard photos output=DIR",
    "cache": "what is kept, and how much      imgbench cache [--clear]",
    "benchmark": "how fast this machine trains    imgbench benchmark model=cnn data=sneakers",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"imgbench.{name}", run_name="__main__", alter_sys=True)
    elif name == "--version":
        print(f"imgbench {__version__}")
    elif name in ("-h", "--help"):
        print("imgbench: from a folder of photographs to an image classifier\n")
        for known, text in COMMANDS.items():
            print(f"  {known:<10}{text}")
        print("\n--help after a command explains it; `python -m imgbench.train` is the same as `imgbench train`.")
        print("RUN is a run directory below outputs/, a checkpoint or an ONNX file.")
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        print(
            f"Error: there is no command {name!r}{f'; did you mean {near[0]}?' if near else ''}\n"
            f"There are: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
