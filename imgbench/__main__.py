"""Lists the commands: `python -m imgbench`."""

COMMANDS = {
    "train": "train a classifier              python -m imgbench.train model=vgg16 data=potato",
    "summary": "layers, parameters, operations  python -m imgbench.summary model=vgg16 data=potato",
    "evaluate": "accuracy of a run               python -m imgbench.evaluate RUN [--data DIR]",
    "predict": "class of single images          python -m imgbench.predict RUN IMAGE...",
    "compress": "a smaller run of a run         python -m imgbench.compress RUN prune",
    "export": "one ONNX file for elsewhere     python -m imgbench.export RUN",
    "ladder": "ever lighter runs of a run      python -m imgbench.ladder RUN",
    "benchmark": "how fast this machine trains    python -m imgbench.benchmark model=cnn data=sneakers",
}


def main() -> None:
    print("imgbench: from a folder of photographs to an image classifier\n")
    for name, text in COMMANDS.items():
        print(f"  {name:<10}{text}")
    print("\n--help after a command explains it. RUN is a run directory below outputs/, a checkpoint or an ONNX file.")


if __name__ == "__main__":
    main()
