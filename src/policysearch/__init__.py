"""Search for good controllers from samples alone. Each public name is imported when it is first used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policysearch.comparison.grid import compare
    from policysearch.comparison.summary import Comparison, open_comparison
    from policysearch.core.controller import Controller
    from policysearch.core.credit import ActionLimitPenalty, CentredRanks, CostToGo, Elites, TopPairs, TotalCost
    from policysearch.core.direction import Euclidean, LeastSquares, Natural
    from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
    from policysearch.core.interface import Interface
    from policysearch.core.likelihood_ratio import likelihood_ratio_gradient
    from policysearch.core.method import Method
    from policysearch.core.policies import PID, LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax
    from policysearch.core.readings import Action
    from policysearch.core.settings import Budget, PolicySettings
    from policysearch.core.specification import Continuous, Discrete, Specification
    from policysearch.core.step import KLStep, LearningRate, Optimizer, Refit
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
    from policysearch.runs.reader import Run, open_run
    from policysearch.search.evaluation import Evaluation, evaluate
    from policysearch.search.many_seeds import train_seeds
    from policysearch.search.open_update import Trial
    from policysearch.search.result import Result
    from policysearch.search.rig import Rig
    from policysearch.search.search import Search
    from policysearch.search.training import train
    from policysearch.tasks import BUILT_IN, resolve
    from policysearch.tasks.gymnasium_task import GymnasiumTask
    from policysearch.tasks.lqr import LQR
    from policysearch.tasks.plant import Plant
    from policysearch.tasks.python_function import PythonFunction
    from policysearch.tasks.regulator import lqr
    from policysearch.tasks.task import Equilibrium, Function, Task
    from policysearch.verify.diagnosis import diagnose

__all__ = [
    "ARS",
    "BUILT_IN",
    "CEM",
    "ENAC",
    "GPOMDP",
    "LQR",
    "PGPE",
    "PID",
    "TRPO",
    "Action",
    "ActionLimitPenalty",
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
    "Plant",
    "Policy",
    "PolicySettings",
    "PythonFunction",
    "Refit",
    "Reinforce",
    "Result",
    "Rig",
    "Run",
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
    "comparison.grid": "compare",
    "comparison.summary": "Comparison open_comparison",
    "core.controller": "Controller",
    "core.credit": "CentredRanks CostToGo Elites ActionLimitPenalty TopPairs TotalCost",
    "core.direction": "Euclidean LeastSquares Natural",
    "core.explore": "ActionNoise Coordinates ParameterNoise",
    "core.interface": "Interface",
    "core.likelihood_ratio": "likelihood_ratio_gradient",
    "core.method": "Method",
    "core.policies": "PID LinearGaussian NeuralGaussian Parameters Policy Softmax",
    "core.readings": "Action",
    "core.settings": "Budget PolicySettings",
    "core.specification": "Continuous Discrete Specification",
    "core.step": "KLStep LearningRate Optimizer Refit",
    "methods.presets": "preset",
    "methods.settings": "ARS CEM ENAC FiniteDifferences GPOMDP NaturalGradient PGPE Reinforce TRPO WeightPerturbation",
    "runs.reader": "Run open_run",
    "search.evaluation": "Evaluation evaluate",
    "search.many_seeds": "train_seeds",
    "search.result": "Result",
    "search.rig": "Rig",
    "search.search": "Search",
    "search.training": "train",
    "search.open_update": "Trial",
    "tasks": "BUILT_IN resolve",
    "tasks.gymnasium_task": "GymnasiumTask",
    "tasks.lqr": "LQR",
    "tasks.plant": "Plant",
    "tasks.python_function": "PythonFunction",
    "tasks.regulator": "lqr",
    "tasks.task": "Equilibrium Function Task",
    "verify.diagnosis": "diagnose",
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

    from policysearch.core.controller import Controller
    from policysearch.runs.reader import POLICY, load_policy, open_run

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
