"""Learning from labels while people give them, and what they are asked next."""

import logging
import threading
from itertools import islice
from typing import Any

import numpy as np

from imgbench.data.annotated import UNKNOWN
from imgbench.data.corrections import LEFT_OUT
from imgbench.errors import UserError
from imgbench.experiment.build import frozen_network
from imgbench.inference.active_learning import FIRST, GROWTH, changed, is_settled, learn, margins, propose, reduced
from imgbench.inference.cached_features import image_features
from imgbench.inference.neighbours import features_of, network_inputs
from imgbench.inference.novelty import has_features
from imgbench.publish.review_images import Known, ReviewedImages

log = logging.getLogger(__name__)

AGAIN = 5  # labels after which it learns again
SHOWN = 100  # photographs that are proposed at a time
CHANCE = (
    5  # of so many one is drawn by chance, where there are no test images yet: on these the accuracy is that on all
)
POLL = 1.0  # seconds until it looks for the decisions that another process has written


class Learning:
    """A last layer that learns in the background; `state` is what the page shows of it."""

    def __init__(self, images: ReviewedImages) -> None:
        self.images = images
        self._wake, self._over = threading.Event(), False
        _, given, left_out = self._given()
        open_ones = np.flatnonzero((given == UNKNOWN) & ~left_out)
        order = np.argsort(images.numbers[images.asked[open_ones]], kind="stable")
        first = self._next(open_ones[order][:SHOWN], open_ones)
        self._state: dict[str, Any] = {"version": 0, "status": "preparing", **first}
        if len(images.asked):
            threading.Thread(target=self._run, daemon=True).start()

    def state(self) -> dict[str, Any]:
        return self._state

    def wake(self) -> None:
        """Something was decided."""
        self._wake.set()

    def stop(self) -> None:
        self._over = True
        self._wake.set()

    def _numbers(self, rows: np.ndarray) -> list[int]:
        return self.images.numbers[rows].tolist()

    def _run(self) -> None:
        try:
            features, labels = self._features()
            self._go_on(features, labels)
        except UserError as error:
            self._state = {**self._state, "status": "failed", "message": str(error)}
        except Exception as error:
            log.exception("Learning from labels failed.")
            self._state = {**self._state, "status": "failed", "message": f"{type(error).__name__}: {error}"}

    def _features(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the photographs that have labels, but for those to be tested on, and then of those that are asked; and the
        labels of the first.
        """
        images, model = self.images, self.images.model
        own = np.flatnonzero((images.splits[: images.own] >= 0) & (images.splits[: images.own] < 2))
        rows = np.concatenate([own, images.asked])
        if model is None:
            network, preprocessing = frozen_network([str(images.table.root)])
            features = image_features(network, images.data_without_pixels(preprocessing), rows)
        else:
            data = images.data_without_pixels(images.data.preprocessing)
            if has_features(model):
                features = features_of(model, data, rows)  # of a frozen network, most are known
            else:  # an ONNX file gives no more than its answers
                features = np.log(np.concatenate([model(batch) for batch in network_inputs(data, rows)]).clip(1e-6))
        return reduced(features), images.table.labels[own].astype(np.int64)

    def _go_on(self, features: np.ndarray, labels: np.ndarray) -> None:
        images, own = self.images, len(labels)
        rng = np.random.default_rng(0)
        learnt_from, last_round, shares = -1, 0, []
        before: np.ndarray | None = None
        probabilities: np.ndarray | None = None
        while not self._over:
            self._wake.clear()
            known, given, left_out = self._given()
            new = np.flatnonzero((given != UNKNOWN) & ~left_out)
            open_ones = np.flatnonzero((given == UNKNOWN) & ~left_out)
            enough = own > 0 or len(new) >= FIRST
            classes = np.union1d(labels, given[new])
            if learnt_from < 0 or abs(len(new) - learnt_from) >= AGAIN or (enough and probabilities is None):
                if enough and len(classes) > 1:
                    rows = np.concatenate([np.arange(own), own + new])
                    targets = np.concatenate([labels, given[new]])
                    probabilities = learn(features[rows], targets, len(known.class_names))(features[own:])
                    if before is None or len(new) - last_round >= max(FIRST, round((GROWTH - 1) * len(new))):
                        if before is not None:
                            shares.append(changed(before[open_ones], probabilities[open_ones]))
                        before, last_round = probabilities, len(new)
                    self._show(probabilities)
                done = np.concatenate([np.arange(own), own + np.flatnonzero((given != UNKNOWN) | left_out)])
                whole = None if probabilities is None else np.pad(probabilities, ((own, 0), (0, 0)))
                chosen = propose(features, done, whole, FIRST, rng) - own
                learnt_from = len(new)
                self._state = {
                    "version": self._state["version"] + 1,
                    "status": "waiting" if probabilities is None else "learnt",
                    "labels": len(new),
                    "first": FIRST,
                    "classes": len(classes),
                    "left": len(open_ones),
                    "changed": shares[-1] if shares else None,
                    "settled": is_settled(shares),
                    **self._next(self._with_more(chosen, done - own, probabilities), open_ones),
                }
            else:
                done = set(self._numbers(images.asked[(given != UNKNOWN) | left_out]))
                left, drawn = ([one for one in self._state[name] if one not in done] for name in ("next", "drawn"))
                self._state |= {"labels": len(new), "left": len(given) - len(done), "next": left, "drawn": drawn}
            self._wake.wait(POLL)

    def _given(self) -> tuple[Known, np.ndarray, np.ndarray]:
        """What is known, of each of `asked` its class by now, and whether it was left out."""
        known, given = self.images.labels_of_asked()
        decisions = [known.of_rows[row] for row in self.images.asked]
        left_out = [decision is not None and decision.decision == LEFT_OUT for decision in decisions]
        return known, given, np.array(left_out, bool)

    def _with_more(self, chosen: np.ndarray, done: np.ndarray, probabilities: np.ndarray | None) -> np.ndarray:
        """And after them others, for people who are faster than it learns."""
        rest = np.setdiff1d(np.arange(len(self.images.asked)), np.concatenate([chosen, done]))
        order = np.random.default_rng(0).permutation(len(rest))
        if probabilities is not None:
            order = np.argsort(margins(probabilities[rest]), kind="stable")
        return np.concatenate([chosen, rest[order]])[:SHOWN]

    def _next(self, chosen: np.ndarray, open_ones: np.ndarray) -> dict[str, list[int]]:
        """The numbers of what is asked next, and of those among them that are drawn by chance."""
        images = self.images
        numbers = self._numbers(images.asked[chosen])
        if not images.names_classes:  # what a run is tested on is known
            return {"next": numbers, "drawn": []}
        drawn = sorted(self._numbers(images.asked[open_ones]))[: len(numbers) // CHANCE]  # the order of the hashes
        images.drawn = frozenset(images.rows[drawn].tolist())
        others = (number for number in numbers if number not in set(drawn))
        mixed = [one for number in drawn for one in (*islice(others, CHANCE - 1), number)]
        return {"next": [*mixed, *others][:SHOWN], "drawn": drawn}

    def _show(self, probabilities: np.ndarray) -> None:
        images = self.images
        known = np.full((len(images.table.paths), probabilities.shape[1]), np.nan, np.float32)
        if images.own:
            known[: images.own] = images.probabilities[: images.own]
        known[images.asked] = probabilities
        images.probabilities = known
