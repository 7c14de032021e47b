"""`Policy` π_θ(u | x): named arrays and one forward pass over them, NumPy's in a controller, JAX's in a search.

p observations, m actions, k choices, d searched parameters; x' the scaled observation. Imports no JAX until it is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.interface import Interface
from policysearch.core.policies.registry import ACTIONS, CHOICE, Output

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

    from policysearch.core.distributions import Distribution
    from policysearch.core.normalize import Scaling
    from policysearch.core.settings import PolicySettings
    from policysearch.core.specification import Specification

#: fields that are no arrays: static in JAX
_STATIC = ("details", "interface")
#: classes that JAX knows as pytrees
_TREES: set[type] = set()


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Policy:
    """What all policies share: named parameters, which of them are searched, and a flat view θ of those.

    The flat θ concatenates the searched ones in the order of their names. Searches in parameter space leave `log_std`
    out, because they run the mode. A kind of policy is a subclass in a file of its own.

    Args:
        parameters: arrays by name.
        constants: arrays by name that no search changes, such as a fixed `log_std`.
        details: what else its file says, by name: text, and tuples of names or of true and false.
        scaling: of the observations; None for none.
        interface: what its controllers are connected to; set by a search.
    """

    #: name in files, and of its module
    kind: ClassVar[str] = ""
    outputs: ClassVar[str] = ACTIONS
    #: whether actions have a distribution; if not, the policy is searched in parameter space only
    stochastic: ClassVar[bool] = True
    #: whether it remembers; then `begin` is its law, not `forward`
    recurrent: ClassVar[bool] = False
    #: words by which a user asks for it → what they get
    words: ClassVar[tuple[str, ...]] = ()
    #: which `details` a controller's description has, and which are among its constants, as arrays of true and false
    #: the policy settings that are its own, which no other kind may be given
    settings: ClassVar[tuple[str, ...]] = ()
    described: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()

    parameters: dict[str, Any]
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    scaling: Scaling | None = None
    interface: Interface = dataclasses.field(default_factory=Interface)

    def __post_init__(self) -> None:
        import jax.numpy as jnp

        _register(type(self))
        for name in ("parameters", "constants"):
            arrays = {key: jnp.asarray(value) for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, arrays)

    @classmethod
    def of(
        cls,
        description: Mapping[str, Any],
        parameters: Mapping[str, Any],
        constants: Mapping[str, Any],
        interface: Interface,
    ) -> Self:
        """The policy that a controller's arrays belong to, without its scaling; arrays stay those of NumPy."""
        details = {name: _fixed(description[name]) for name in cls.described if name in description}
        details |= {name: _fixed(constants[name].astype(bool).tolist()) for name in cls.flags if name in constants}
        arrays = {name: value for name, value in constants.items() if name not in details and _unscaled(name)}
        policy = object.__new__(cls)
        fields = {"parameters": dict(parameters), "constants": arrays, "details": details, "interface": interface}
        policy.__dict__.update(fields, scaling=None)
        return policy

    def _with(self, **changes: Any) -> Self:
        policy = object.__new__(type(self))
        policy.__dict__.update(self.__dict__, **changes)
        return policy

    # what a kind says of itself

    def sizes(self) -> tuple[int, int]:
        """Observations p, and actions m or choices k.

        Raises:
            ValueError: an array is missing, or its shape does not fit the others.
        """
        raise NotImplementedError

    def forward(self, xp: Any, observation: Any) -> Any:
        """The law: mean actions (…, m), or logits (…, k), for scaled observations (…, p).

        Args:
            xp: the namespace of the arrays, `numpy` or `jax.numpy`.
            observation: scaled. Where the parameters have a leading axis B, it is (B, p), one for each set of them.
        """
        raise NotImplementedError

    def begin(self, xp: Any) -> tuple[Any, Callable[[Any, Any], tuple[Any, Any]]]:
        """The memory at the start of a rollout, and the law (memory, observation (p,)) → (memory, action (m,)).

        Most policies remember nothing: their memory is (), and the action is the mode. One that remembers also takes
        B observations (B, p) of as many rollouts, with parameters of their own if those have a leading axis.

        Args:
            xp: the namespace of the arrays, `numpy` or `jax.numpy`.
        """
        return (), lambda memory, observation: (memory, self.mode(observation))

    def compiled(self, shift: np.ndarray | None, scale: np.ndarray | None) -> Output:
        """`forward` in NumPy for one observation (p,) in its own units; it writes into a second argument if given.

        Args:
            shift, scale: (p,), of the observations.
        """

        def law(observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            found = self.forward(np, scaled(observation, shift, scale))
            if out is None:
                return found
            out[...] = found
            return out

        return law

    def vector(self) -> Float[Array, " d"]:
        """Its named numbers as one vector, in their own units.

        Raises:
            TypeError: it has none.
        """
        raise TypeError(f"A {self.kind} policy has no named numbers.")

    def values(self) -> dict[str, float]:
        """Its named numbers, in their own units.

        Raises:
            TypeError: it has none.
        """
        raise TypeError(f"A {self.kind} controller has no named values; call its act or mode.")

    def account(self) -> list[tuple[str, Any]]:
        """What a report says of it, as ("text", sentence) and ("table", (header, rows, caption)); [] for the usual."""
        return []

    def fitted(self, specification: Specification) -> Self:
        """This policy with what it takes from the task that it is searched on, its interface aside.

        Raises:
            ValueError: it does not suit the task.
        """
        return self

    def absorbing(self, ratio: Array, moved: Array) -> Self:
        """The same law where its input x' is replaced by an x'' with x' = ratio · x'' + moved; see `rescaled`."""
        raise NotImplementedError

    def starting_at(self, values: dict[str, Any]) -> Policy:
        """The policy moved to known values by name, in physical units.

        Raises:
            ValueError: values that do not fit, or a kind that has no such values.
        """
        raise ValueError(
            "Only a gain matrix or named numbers can start from values; give a policy file for a network, or search a "
            "gain matrix: policy linear."
        )

    @property
    def nonlinear(self) -> bool:
        """Whether its outputs are a nonlinear function of what is searched."""
        return False

    def perturbation(self, share: float, specification: Specification) -> float:
        """Standard deviation of its parameters that moves actions by a share of half their range.

        The share is that of a row of p parameters, which act on observations of about unit size.
        """
        return share / math.sqrt(specification.observation_size)

    @classmethod
    def default(
        cls, specification: Specification, settings: PolicySettings, word: str, running: bool | None, seed: int
    ) -> Policy:
        """The policy that a search of a task starts from.

        Args:
            specification: of the task.
            settings: what the user asked for.
            word: one of `words`.
            running: the method's choice of observation scaling (ARS V2: True, V1: False); None to leave it open.
            seed: of random weights.
        """
        raise NotImplementedError

    # what follows for all of them

    def __call__(self, observation: Float[Array, "*b p"]) -> Distribution:
        """Distribution over actions at each observation (*batch, p).

        Raises:
            TypeError: the policy has none; it is searched in parameter space.
        """
        import jax.numpy as jnp

        from policysearch.core.distributions import Categorical, Gaussian

        if not self.stochastic:
            raise TypeError(f"{type(self).__name__} has no action distribution: use a method that perturbs parameters.")
        output = self.forward(jnp, observation if self.scaling is None else self.scaling(observation))
        return Categorical(output) if self.outputs == CHOICE else Gaussian(output, self.log_std)

    @property
    def log_std(self) -> Float[Array, " m"]:
        """Logarithm of the action noise's standard deviation, (m,): searched or fixed."""
        return self.parameters["log_std"] if "log_std" in self.parameters else self.constants["log_std"]

    def mode(self, observation: Float[Array, "*b p"]) -> Array:
        """Most likely action at each observation."""
        return self(observation).mode()

    def sample(self, observation: Float[Array, "*b p"], key: PRNGKeyArray) -> Array:
        """One action at each observation."""
        return self(observation).sample(key)

    def log_prob(self, observation: Float[Array, "*b p"], action: Array) -> Array:
        """log π(action | observation), nats."""
        return self(observation).log_prob(action)

    def kl(self, other: Policy, observation: Float[Array, "*b p"]) -> Array:
        """KL(self ‖ other) at each observation, nats, closed form (18.37)."""
        return self(observation).kl(other(observation))

    def searched(self, space: str) -> tuple[str, ...]:
        """Names of the parameters that a search in `space` ("action" or "parameter") moves, sorted."""
        return tuple(sorted(name for name in self.parameters if space == "action" or name != "log_std"))

    def theta(self, space: str = "action") -> Float[Array, " d"]:
        """The searched parameters as one vector (d,)."""
        import jax.numpy as jnp

        return jnp.concatenate([self.parameters[name].ravel() for name in self.searched(space)])

    def with_theta(self, theta: Float[Array, " d"], space: str = "action") -> Self:
        """This policy with its searched parameters taken from a vector (d,)."""
        new, start = dict(self.parameters), 0
        for name in self.searched(space):
            shape = new[name].shape
            size = int(np.prod(shape))
            new[name] = theta[start : start + size].reshape(shape)
            start += size
        return self._with(parameters=new)

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """This policy with other parameters, by name."""
        policy = self._with(parameters=dict(parameters))
        policy.__post_init__()
        return policy

    def with_scaling(self, scaling: Scaling | None) -> Self:
        """This policy with another observation scaling."""
        return self._with(scaling=scaling) if scaling is not None else self

    def with_interface(self, interface: Interface) -> Self:
        """This policy; its controllers know the limits, names and time step of their signals."""
        return self._with(interface=interface)

    def rescaled(self, scaling: Scaling) -> Self:
        """The same actions with another observation scaling: the first layer's weights absorb the change.

        Without a bias only the change of scale is absorbed; a scaling that is not centred has no other.
        """
        if self.scaling is None:
            return self
        ratio = scaling.scale / self.scaling.scale
        moved = (scaling.shift - self.scaling.shift) / self.scaling.scale
        return self.absorbing(ratio, moved).with_scaling(scaling)

    def step_units(self, largest: Any) -> np.ndarray:
        """The largest step of an update in θ's own units, () or (d,).

        Raises:
            ValueError: not a number above 0.
        """
        if not (isinstance(largest, (int, float)) and math.isfinite(largest) and largest > 0):
            raise ValueError(f"largest_step is {largest!r}; it must be a number above 0, or names of named numbers.")
        return np.asarray(float(largest))

    def parameter_names(self, space: str = "action") -> list[str]:
        """A readable name for each entry of θ, such as gain[0,2]."""
        names = []
        for name in self.searched(space):
            for index in np.ndindex(*self.parameters[name].shape):
                names.append(f"{name}[{','.join(map(str, index))}]" if index else name)
        return names

    def controller(self) -> Controller:
        """The same policy as plain NumPy."""
        constants = {} if self.scaling is None else self.scaling.constants()
        constants |= {name: np.asarray(value) for name, value in self.constants.items()}
        # the host only ever perturbs parameters, so its flat view is that of parameter space
        description: dict[str, Any] = {"policy": self.kind, "searched": list(self.searched("parameter"))}
        for name, value in self.details.items():
            if name in self.flags:
                constants[name] = np.asarray(value, bool)
            else:
                description[name] = list(value) if isinstance(value, tuple) else value
        parameters = {name: np.asarray(value) for name, value in self.parameters.items()}
        return Controller(description, parameters, constants, self.interface)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(np.shape(value))}" for name, value in sorted(self.parameters.items()))
        return f"{type(self).__name__}({shapes})"


def from_controller(controller: Controller) -> Policy:
    """The policy of a loaded controller, with JAX's arrays (the inverse of `Policy.controller`)."""
    from policysearch.core.normalize import Scaling

    record: Any = controller.record
    constants = record.constants
    if record.stochastic and record.outputs == ACTIONS and "log_std" not in record.parameters | constants:
        constants = constants | {"log_std": np.zeros(controller.action_size)}
    policy: Policy = record._with(
        constants=constants, scaling=Scaling.of(controller.constants) if record.stochastic else None
    )
    policy.__post_init__()
    return policy


def scaled(observation: np.ndarray, shift: np.ndarray | None, scale: np.ndarray | None) -> np.ndarray:
    """(observation − shift)/scale, each only if it is given."""
    if shift is not None:
        observation = observation - shift
    return observation if scale is None else observation / scale


def _unscaled(name: str) -> bool:
    return not name.startswith("scaling_")


def _fixed(value: Any) -> Any:
    """JSON's lists as tuples, which hash."""
    return tuple(_fixed(entry) for entry in value) if isinstance(value, list) else value


def _register(kind: type[Policy]) -> None:
    """Make a class of policies a pytree of JAX: its arrays are leaves, the rest is static."""
    if kind in _TREES:
        return
    _TREES.add(kind)
    import jax

    names = [field.name for field in dataclasses.fields(kind) if field.name not in _STATIC]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def static(policy: Policy) -> Any:
        return tuple(sorted(policy.details.items())), policy.interface

    def flatten(policy: Policy) -> tuple[list[Any], Any]:
        return [getattr(policy, name) for name in names], static(policy)

    def with_keys(policy: Policy) -> tuple[list[Any], Any]:
        return [(key, getattr(policy, name)) for key, name in zip(keys, names, strict=True)], static(policy)

    def unflatten(static: Any, children: Any) -> Policy:
        policy = object.__new__(kind)
        policy.__dict__.update(zip(names, children, strict=True), details=dict(static[0]), interface=static[1])
        return policy

    jax.tree_util.register_pytree_with_keys(kind, with_keys, unflatten, flatten)
