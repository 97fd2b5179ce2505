"""Extra-P's forecast of T at a larger p, from the same times; run by an interpreter that has it.

Standard input: JSON [{"times": {p: [seconds, ...]}, "at": p}, ...]; standard output: JSON [seconds, ...].
"""

import json
import sys
import warnings

from extrap.entities.callpath import Callpath  # type: ignore[import-not-found]
from extrap.entities.coordinate import Coordinate  # type: ignore[import-not-found]
from extrap.entities.experiment import Experiment  # type: ignore[import-not-found]
from extrap.entities.measurement import Measurement  # type: ignore[import-not-found]
from extrap.entities.metric import Metric  # type: ignore[import-not-found]
from extrap.entities.parameter import Parameter  # type: ignore[import-not-found]
from extrap.modelers.model_generator import ModelGenerator  # type: ignore[import-not-found]
from extrap.modelers.single_parameter.basic import SingleParameterModeler  # type: ignore[import-not-found]


def forecast(times: dict[str, list[float]], at: float) -> float:
    """Return the seconds that Extra-P's default modeler, given the median of repeats as is its default, expects."""
    experiment, callpath, metric = Experiment(), Callpath("stage"), Metric("time")
    experiment.add_parameter(Parameter("p"))
    experiment.add_callpath(callpath)
    experiment.add_metric(metric)
    for p, seconds in times.items():
        coordinate = Coordinate(float(p))
        experiment.add_coordinate(coordinate)
        experiment.add_measurement(Measurement(coordinate, callpath, metric, seconds))
    modeler = SingleParameterModeler()
    modeler.allow_negative_exponents = True  # as its documentation has it for strong scaling
    generator = ModelGenerator(experiment, modeler=modeler, name="model", use_median=True)
    generator.model_all()
    (model,) = generator.models.values()
    return float(model.hypothesis.function.evaluate(at))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found = [forecast(row["times"], row["at"]) for row in json.load(sys.stdin)]
    print(json.dumps(found))
