"""What `imgbench.ladder` makes of a run: other networks, pruned, quantised and distilled ones, and combinations."""

from collections.abc import Sequence
from dataclasses import dataclass

from imgbench.compression.options import Distill, Method, Prune, Quantize, Reuse, Train
from imgbench.errors import UserError


@dataclass(frozen=True)
class LadderEntry:
    """A run to be made by a method: of the ladder's RUN, or of the entry named `parent`."""

    name: str
    method: Method
    words: tuple[str, ...] = ()  # that override the configuration of what it is made of
    parent: str | None = None


# Another network is trained with the learning rate that suits it, and as many epochs as suit the number of images.
ANEW = ("optimizer.lr=null", "trainer.max_epochs=null")

# A parent stands before what is made of it.
PLAN = (
    LadderEntry("slim", Reuse(), ("model=vgg16", "head=slim")),
    LadderEntry("gap", Reuse(), ("model=vgg16", "head=gap")),
    LadderEntry("separable", Train(), ("model=vgg16_separable", "head=gap", "model.batch_norm=true", *ANEW)),
    LadderEntry("pruned_30", Prune(amount=0.3, steps=1)),
    LadderEntry("pruned_60", Prune(amount=0.6, steps=1), parent="pruned_30"),
    LadderEntry("int8", Quantize()),
    LadderEntry("gap_pruned", Prune(amount=0.75, steps=2), parent="gap"),
    LadderEntry("gap_pruned_int8", Quantize(), parent="gap_pruned"),
    # A small network without a teacher, which tells what distillation adds to it.
    LadderEntry("small", Train(), ("model=compact", *ANEW)),
    LadderEntry("small_int8", Quantize(), parent="small"),
    # Its teacher is a pruned one, which lies between RUN and the student in size (https://arxiv.org/abs/1902.03393) and
    # answers much faster than RUN: it is asked at every step.
    LadderEntry("distilled", Distill(), ("model=compact", *ANEW), parent="pruned_60"),
    LadderEntry("distilled_int8", Quantize(), parent="distilled"),
    LadderEntry("distilled_pruned", Prune(amount=0.5, steps=2), parent="distilled"),
    LadderEntry("distilled_pruned_int8", Quantize(), parent="distilled_pruned"),
)


def select_entries(only: Sequence[str] | None = None) -> list[LadderEntry]:
    """All entries of the plan, or those named and what they are made of, each after its parent.

    Raises:
        UserError: there is no entry of such a name.
    """
    known = [entry.name for entry in PLAN]
    wanted = set(known if only is None else only)
    if unknown := wanted - set(known):
        raise UserError(f"--only {','.join(sorted(unknown))}: there are {', '.join(known)}.")
    for entry in reversed(PLAN):
        if entry.name in wanted and entry.parent is not None:
            wanted.add(entry.parent)
    return [entry for entry in PLAN if entry.name in wanted]
