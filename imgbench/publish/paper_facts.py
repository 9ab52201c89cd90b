"""What a run has recorded, as sentences that a paper and a checklist can take over, each with the file it stands in.

Nothing is guessed: of what was not recorded there is no fact.
"""

from collections.abc import Callable

from imgbench.publish import data_facts, result_facts, training_facts
from imgbench.publish.recorded import Fact, Record

MAKERS: dict[str, Callable[[Record], Fact | None]] = {
    make.__name__: make
    for make in (
        data_facts.images,
        data_facts.source,
        data_facts.labels,
        data_facts.left_out,
        data_facts.corrections,
        data_facts.groups,
        data_facts.division,
        data_facts.disjoint,
        data_facts.inspection,
        data_facts.difference_of_parts,
        data_facts.selection_on_test,
        data_facts.test_apart,
        training_facts.preprocessing,
        training_facts.augmentation,
        training_facts.network,
        training_facts.weights,
        training_facts.training,
        training_facts.loss,
        training_facts.imbalance,
        training_facts.duration,
        training_facts.epochs,
        training_facts.choice,
        result_facts.measures,
        result_facts.interval,
        result_facts.baselines,
        training_facts.software,
        training_facts.code,
        training_facts.hardware,
        training_facts.budget,
        training_facts.seed,
        training_facts.reproduction,
        result_facts.accuracy,
        result_facts.further_measures,
        result_facts.calibration,
        result_facts.classes,
        result_facts.subgroups,
        result_facts.failures,
        result_facts.unsure,
        result_facts.novelty,
        result_facts.learning_curve,
        result_facts.small_models,
        result_facts.folds,
        result_facts.model_file,
        result_facts.output,
    )
}


def facts_of(record: Record) -> dict[str, Fact]:
    """Every fact that the run has recorded, by its name."""
    found = {name: make(record) for name, make in MAKERS.items()}
    return {name: fact for name, fact in found.items() if fact is not None}
