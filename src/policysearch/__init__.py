"""Search for good controllers from samples alone. Each public name is imported when it is first used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policysearch.baseline import lqr
    from policysearch.comparison.grid import compare
    from policysearch.comparison.summary import Comparison, open_comparison
    from policysearch.controller import Action, Controller
    from policysearch.credit import CentredRanks, CostToGo, Elites, Saturation, TopPairs, TotalCost
    from policysearch.diagnosis import diagnose
    from policysearch.direction import Euclidean, LeastSquares, Natural
    from policysearch.evaluation import Evaluation, evaluate
    from policysearch.explore import ActionNoise, Coordinates, ParameterNoise
    from policysearch.interface import Interface
    from policysearch.likelihood_ratio import likelihood_ratio_gradient
    from policysearch.method import Method
    from policysearch.methods.presets import preset
    from policysearch.methods.settings import (
        ARS,
        CEM,
        ENAC,
        GPOMDP,
        PGPE,
        TRPO,
        FiniteDifferences,
        NaturalGradient,
        Reinforce,
        WeightPerturbation,
    )
    from policysearch.policies import LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax
    from policysearch.runs import Run, open_run
    from policysearch.samplers.gymnasium_task import GymnasiumTask
    from policysearch.search import Result, Search
    from policysearch.seeds import train_seeds
    from policysearch.settings import Budget, PolicySettings
    from policysearch.specification import Continuous, Discrete, Specification
    from policysearch.step import KLStep, LearningRate, Optimizer, Refit
    from policysearch.tasks import BUILT_IN, resolve
    from policysearch.tasks.lqr import LQR
    from policysearch.tasks.python_function import PythonFunction
    from policysearch.tasks.task import Equilibrium, Function, Task
    from policysearch.training import train
    from policysearch.trials import Trial

__all__ = [
    "ARS",
    "BUILT_IN",
    "CEM",
    "ENAC",
    "GPOMDP",
    "LQR",
    "PGPE",
    "TRPO",
    "Action",
    "ActionNoise",
    "Budget",
    "CentredRanks",
    "Comparison",
    "Continuous",
    "Controller",
    "Coordinates",
    "CostToGo",
    "Discrete",
    "Elites",
    "Equilibrium",
    "Euclidean",
    "Evaluation",
    "FiniteDifferences",
    "Function",
    "GymnasiumTask",
    "Interface",
    "KLStep",
    "LearningRate",
    "LeastSquares",
    "LinearGaussian",
    "Method",
    "Natural",
    "NaturalGradient",
    "NeuralGaussian",
    "Optimizer",
    "ParameterNoise",
    "Parameters",
    "Policy",
    "PolicySettings",
    "PythonFunction",
    "Refit",
    "Reinforce",
    "Result",
    "Run",
    "Saturation",
    "Search",
    "Softmax",
    "Specification",
    "Task",
    "TopPairs",
    "TotalCost",
    "Trial",
    "WeightPerturbation",
    "compare",
    "diagnose",
    "evaluate",
    "likelihood_ratio_gradient",
    "load",
    "lqr",
    "open_comparison",
    "open_run",
    "preset",
    "resolve",
    "train",
    "train_seeds",
]

#: module below policysearch → the public names that it holds
_HOMES = {
    "baseline": "lqr",
    "comparison.grid": "compare",
    "comparison.summary": "Comparison open_comparison",
    "controller": "Action Controller",
    "credit": "CentredRanks CostToGo Elites Saturation TopPairs TotalCost",
    "diagnosis": "diagnose",
    "direction": "Euclidean LeastSquares Natural",
    "evaluation": "Evaluation evaluate",
    "explore": "ActionNoise Coordinates ParameterNoise",
    "interface": "Interface",
    "likelihood_ratio": "likelihood_ratio_gradient",
    "method": "Method",
    "policies": "LinearGaussian NeuralGaussian Parameters Policy Softmax",
    "presets": "preset",
    "samplers.gymnasium_task": "GymnasiumTask",
    "runs": "Run open_run",
    "search": "Result Search",
    "seeds": "train_seeds",
    "settings": "ARS Budget CEM ENAC FiniteDifferences GPOMDP NaturalGradient PGPE PolicySettings Reinforce TRPO "
    "WeightPerturbation",
    "specification": "Continuous Discrete Specification",
    "step": "KLStep LearningRate Optimizer Refit",
    "tasks": "BUILT_IN resolve",
    "tasks.lqr": "LQR",
    "tasks.python_function": "PythonFunction",
    "tasks.task": "Equilibrium Function Task",
    "training": "train",
    "trials": "Trial",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}


def load(path: str | os.PathLike[str]) -> Controller:
    """The policy of a run's folder, or of a policy file, as NumPy; JAX is not needed.

    Args:
        path: of the folder or the file.

    Returns:
        A `Controller`: `controller.mode(observation)` is its action, within the limits recorded in the file.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: the file is damaged.

    Warns:
        UserWarning: the file records no limits for its actions.
    """
    from pathlib import Path

    from policysearch.controller import Controller
    from policysearch.runs import POLICY, load_policy, open_run

    path = Path(path)
    if not path.is_dir():
        return Controller.load(path)
    return load_policy(path) if (path / POLICY).exists() else open_run(path).controller()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        value = getattr(import_module(f"policysearch.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("policysearch")
    raise AttributeError(f"module 'policysearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
