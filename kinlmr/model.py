"""LMR as an ordinary nn.Module: one recurrent cell per part, a shape network, a camera cell, refined V times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from kinlmr import engine
from kinlmr.engine import Cell, Node, RecurrentNode, Schedule, ShapeNode, parameters
from kinlmr.kernels import traced
from kinlmr.plan import Plan
from kinlmr.rotations import Rotation
from kinlmr.state import Rows, select


class Estimate(NamedTuple):
    """What LMR says of a frame: pose (..., J, R) in skeleton order, shape (..., S), camera (..., 3) as (s, tx, ty).

    The camera is in units of the crop (see `kinlmr.camera`) and for the body about its root joint:
    ``project(points - joints[..., [body.root], :], camera)``. `Recovery`'s is for the body as it is posed;
    ``kinlmr.camera.from_root(camera, joints[..., body.root, :])`` makes it of this one.
    """

    pose: Tensor
    shape: Tensor
    camera: Tensor


class State(NamedTuple):
    """What LMR remembers between frames: memory (B, V, M), every iteration's own hidden vectors side by side.

    A row, ``memory[b]``, is one person (one clip of a batch), and knows nothing of the others: people may be picked
    with `select`, joined with `kinlmr.concat`, and new ones come with ``model.initial_state(people)``. A state is a
    plain tuple of tensors that nothing writes to: two streams may go on from one state.
    """

    memory: Tensor

    def select(self, rows: Rows) -> State:
        """The state of these people, in this order. rows: numbers (n), which may repeat, or a mask (B) of bools."""
        return select(self, rows)

    def to(self, *args: Any, **kwargs: Any) -> State:
        """On another device or of another type; arguments as of `torch.Tensor.to`."""
        return State(*(x.to(*args, **kwargs) for x in self))


class Start(nn.Module):
    """The estimate that iteration 0 starts from: ``pose (J, R)``, ``shape (S)``, ``camera (3)``; buffers, or parameters
    if it is learned."""

    pose: Tensor
    shape: Tensor
    camera: Tensor

    def __init__(self, start: Estimate, learn: bool) -> None:
        super().__init__()
        for name, value in zip(Estimate._fields, start, strict=True):
            if learn:
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())


class LMR(nn.Module):
    """Local recurrent models for human mesh recovery (Li et al. 2021, section 3.2), for any plan.

    `kinlmr.build` makes one from names and numbers, and says what the options mean. Parameters are named as in
    ``parts.left_arm.rnn.weight_ih_l0`` and have torch.nn's own shapes and gate order. ``options`` holds what `build`
    was told, as plain JSON. Forward writes nothing to the module: state goes in and comes out.

    The engine reads the parameters of the nodes' modules and never calls these modules: hooks and wrappers belong on
    the whole LMR (on a part they are refused). Live loops run under `torch.inference_mode()`; otherwise autograd keeps
    every frame. ``block`` overrides how many frames the engine takes together (`engine.choose_block`).
    """

    order: Tensor
    restore: Tensor
    shape: ShapeNode | None
    camera: RecurrentNode | None
    block: int | None = None

    def __init__(self, plan: Plan, rotation: Rotation, cell: Cell, start: Estimate, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.plan, self.rotation, self.cell, self.options = plan, rotation, cell, dict(options)
        self.allow_nan: bool = options["allow_nan"]
        hidden, layers = options["hidden"], options["layers"]
        parts, shape, camera = len(plan.parts), len(plan.parts), len(plan.parts) + 1
        self.widths = (*(len(j) * rotation.dimension for j in plan.joints), start.shape.numel(), start.camera.numel())
        restarted = [shape] * (options["shape_input"] == "mean") + [camera] * (options["camera_input"] == "initial")
        names = [*(f"parts.{name}" for name in _carried(plan)), "shape", "camera"]
        sizes = [*(hidden[name] for name in plan.parts), options["shape_hidden"], hidden["camera"]]
        inputs = [options["features"] + sum(self.widths[slot] for slot in read) for read in plan.reads]
        kinds = [None if slot == shape else cell for slot in range(len(names))]
        nodes = [
            Node(name, kind, size, layers, parameters(kind, size, layers, *widths), read, slot, slot in restarted)
            for slot, (name, kind, size, *widths, read) in enumerate(
                zip(names, kinds, sizes, inputs, self.widths, plan.reads, strict=True)
            )
        ]
        cells = [
            RecurrentNode(cell, inputs[node.slot], node.hidden, layers, self.widths[node.slot])
            if node.cell and self.widths[node.slot]
            else None
            for node in nodes
        ]
        self.parts = nn.ModuleDict(zip(plan.parts, cells, strict=False))  # type: ignore[arg-type]
        self.shape = (
            ShapeNode(inputs[shape], options["shape_hidden"], self.widths[shape], options["dropout"])
            if self.widths[shape]
            else None
        )
        self.camera = cells[camera]
        self.start = Start(start, options["learn_start"])
        levels = (
            *(tuple(nodes[i] for i in level) for level in plan.levels),
            *((n,) for n in nodes[parts:] if self.widths[n.slot]),
        )
        self.schedule = Schedule(levels, self.widths, options["iterations"])
        self.state_size = (options["iterations"], sum(self.schedule.memory_sizes()))
        self.register_buffer("order", torch.empty(0), persistent=False)
        self.register_buffer("restore", torch.empty(0), persistent=False)
        self._index()

    def _index(self) -> None:
        """Fill the buffers that no checkpoint holds; on the meta device, where nothing has numbers, for the CPU."""
        for name in ("order", "restore"):
            device = getattr(self, name).device
            values = torch.tensor(getattr(self.plan, name), device="cpu" if device.type == "meta" else device)
            setattr(self, name, values)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LMR:
        before = self.order
        super()._apply(fn, recurse)
        if self.order is not before:
            self._index()  # for `to_empty` loses their numbers
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.order.is_meta:
            self._index()

    def nodes(self) -> dict[str, nn.Module]:
        """The modules of the nodes by name, in the order they run: parts in plan order, shape, camera."""
        ends = {"shape": self.shape, "camera": self.camera}
        named = [(f"parts.{name}", part) for name, part in self.parts.items()]
        return dict([*named, *((name, module) for name, module in ends.items() if module is not None)])

    def initial_state(self, batch: int) -> State:
        """The state before the first frame of ``batch`` people: zeros (B, V, M). `kinlmr.concat` adds it to others."""
        return State(self.start.pose.new_zeros(batch, *self.state_size))

    @overload
    def forward(
        self, features: Tensor, lengths: Tensor | None = None, state: None = None, every: bool = False
    ) -> Estimate: ...
    @overload
    def forward(
        self, features: Tensor, lengths: Tensor | None = None, *, state: State, every: bool = False
    ) -> tuple[Estimate, State]: ...
    def forward(
        self,
        features: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        every: bool = False,
    ) -> Estimate | tuple[Estimate, State]:
        """Estimate every frame of B clips, causally: frame t depends on frames <= t.

        features (B, T, F), T >= 1, B may be 0
        lengths  (B) frames of each padded clip, 1 .. T, with a state 0 .. T; estimates past a clip's end are zero
        state    from `initial_state` or an earlier chunk: then (estimate, state after each clip's last frame) returns
        every    with True, each tensor of the estimate has a leading axis V: all iterations, for their supervision
        """
        self._check_features(features, ("B", "T", "F"))
        lengths = self._check_lengths(lengths, features, least=1 if state is None else 0)
        inside = None
        if lengths is not None:
            inside = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
            features = torch.where(inside[..., None], features, 0)
        self._check_finite(features)
        estimate, after = self._run(features, lengths, state, every)
        if inside is not None:
            mask = lambda x: torch.where(inside.view(*inside.shape, *[1] * (x.ndim - 2 - every)), x, 0)  # noqa: E731
            estimate = Estimate(*map(mask, estimate))
        return estimate if state is None else (estimate, after)

    def step(self, frame: Tensor, state: State | None = None) -> tuple[Estimate, State]:
        """One frame of a stream. frame (B, F), state from the last call (None at first) -> Estimate (B, ...), State.

        Equal, but for rounding, to `forward` over all frames so far.
        """
        self._check_features(frame, ("B", "F"))
        self._check_finite(frame[:, None])
        estimate, after = self._run(frame[:, None], None, state, False)
        return Estimate(*(x[:, 0] for x in estimate)), after

    def weights_as(self, dtype: torch.dtype) -> LMR:
        """Hold the nodes' weights in another type, and compute with them in it; estimate and state stay as they are.

        In bfloat16 a stream reads half the bytes; in the tests rotation matrices then differ by less than 1e-2.
        """
        for node in self.nodes().values():
            node.to(dtype)
        return self

    def matrices(self, estimate: Estimate) -> Tensor:
        """The pose as rotation matrices (..., J, 3, 3), each relative to the joint's parent, in skeleton order."""
        return self.rotation.to_matrix(estimate.pose)

    def _run(
        self, features: Tensor, lengths: Tensor | None, state: State | None, every: bool
    ) -> tuple[Estimate, State]:
        """features (B, T, F), lengths (B) -> the estimate, of every iteration if asked for, and the state."""
        state = self.initial_state(features.shape[0]) if state is None else self._check_state(state, features)
        if self.block is not None and not (type(self.block) is int and self.block > 0):
            raise ValueError(f"block is {self.block!r}, expected a number of frames above zero (an int), or None")
        start = torch.cat([self.start.pose[self.order].flatten(), self.start.shape, self.start.camera])
        out, after = engine.run(
            self.schedule, self.nodes(), features, start, state.memory, lengths, every=every, block=self.block
        )
        pose, shape, camera = (out if every else out[0]).split((sum(self.widths[:-2]), *self.widths[-2:]), -1)
        pose = pose.unflatten(-1, (-1, self.rotation.dimension))[..., self.restore, :]
        return Estimate(pose, shape, camera), State(after)

    def _check_features(self, features: Tensor, axes: tuple[str, ...]) -> None:
        form = f"features ({', '.join(axes)}) with F = {self.options['features']}"
        if not isinstance(features, Tensor):
            raise TypeError(f"expected {form}, a torch.Tensor, not {type(features).__name__}; use torch.as_tensor")
        if features.ndim != len(axes) or features.shape[-1] != self.options["features"]:
            raise ValueError(f"expected {form}, not shape {tuple(features.shape)}")
        if 0 in features.shape[1:]:
            raise ValueError(f"expected {form} and at least one frame, not shape {tuple(features.shape)}")
        own = self.start.pose
        if features.device != own.device:
            raise ValueError(f"features are on {features.device}, the model on {own.device}; move one of them")
        kind = features.device.type
        cast = torch.is_autocast_enabled(kind) and features.dtype == torch.get_autocast_dtype(kind)
        if features.dtype != own.dtype and not cast:
            raise ValueError(f"features are {features.dtype}, the model is {own.dtype}; use features.to({own.dtype})")

    def _check_finite(self, features: Tensor) -> None:
        """A NaN would stay in the state for ever; it is named here, while one still knows which frame brought it."""
        if self.allow_nan or traced() or _capturing(features):
            return
        if not math.isfinite(features.sum().item()) and not (finite := features.isfinite().all(-1)).all():
            clip, frame = (~finite).nonzero()[0].tolist()
            value = features[clip, frame][~features[clip, frame].isfinite()][0].item()
            raise ValueError(
                f"features of clip {clip} are not finite from frame {frame} on (first value {value}); "
                "fill the missing frames, or build(allow_nan=True) to let them through"
            )

    def _check_lengths(self, lengths: Tensor | None, features: Tensor, least: int) -> Tensor | None:
        if lengths is None:
            return None
        batch, frames, _ = features.shape
        if not isinstance(lengths, Tensor) or lengths.shape != (batch,) or not _whole(lengths.dtype):
            seen = f"{tuple(lengths.shape)} {lengths.dtype}" if isinstance(lengths, Tensor) else type(lengths).__name__
            raise ValueError(f"expected lengths, a tensor ({batch}) of whole numbers, not {seen}")
        lengths = lengths.cpu().long()
        if not batch:
            return None
        if not (int(lengths.min()) >= least and int(lengths.max()) <= frames):
            raise ValueError(
                f"lengths must lie in {least} .. {frames}, the frames of the batch, not {lengths.tolist()}"
                + " (0 is for a clip that ended in an earlier chunk: give its state)" * least
            )
        return lengths.to(features.device)

    def _check_state(self, state: State, features: Tensor) -> State:
        expected, own = (features.shape[0], *self.state_size), self.start.pose
        memory = state.memory if isinstance(state, State) else None
        if not isinstance(memory, Tensor) or memory.shape != expected:
            seen = tuple(memory.shape) if isinstance(memory, Tensor) else type(state).__name__
            raise ValueError(f"expected a State with memory (B, V, M) = {expected}, not {seen}; start with state None")
        if memory.device != own.device or memory.dtype != own.dtype:
            raise ValueError(f"the state is {memory.dtype} on {memory.device}, the model {own.dtype} on {own.device}")
        return state

    def __repr__(self) -> str:
        o = self.options
        sizes = sorted(set(o["hidden"].values()))
        numbers = sum(p.numel() for p in self.parameters())
        return (
            f"LMR({o['cell']}, hidden {', '.join(map(str, sizes))}, {o['iterations']} iterations, "
            f"{o['features']} features, rotation {self.rotation.name}, {numbers:,} parameters)\n{self.plan}"
        )


def _carried(plan: Plan) -> tuple[str, ...]:
    """The parts' names, if a module can carry them all."""
    for part in plan.parts:
        if hasattr(nn.ModuleDict, part) or part in nn.ModuleDict().__dict__:
            raise ValueError(
                f"skeleton {plan.skeleton.name!r}: part {part!r} has the name of an attribute of torch.nn.ModuleDict; "
                f"rename it, for example {part}_part"
            )
    return plan.parts


def _whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _capturing(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
