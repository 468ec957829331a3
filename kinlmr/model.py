"""LMR as an ordinary nn.Module: one recurrent cell per part, a shape network, a camera cell, refined V times."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from kinlmr import engine
from kinlmr.engine import Cell, Node, RecurrentNode, ShapeNode
from kinlmr.kernels import traced
from kinlmr.options import Options
from kinlmr.plan import Plan
from kinlmr.rotations import Rotation
from kinlmr.state import Estimate as Estimate
from kinlmr.state import State as State
from kinlmr.state import inference


class Start(nn.Module):
    """The estimate that iteration 0 starts from: ``pose (J, R)``, ``shape (S)``, ``camera (3)``; buffers, or parameters
    if it is learned."""

    pose: Tensor
    shape: Tensor
    camera: Tensor

    def __init__(self, start: Estimate, learn: bool) -> None:
        super().__init__()
        for name, value in zip(Estimate._fields, start, strict=True):
            own = value.new_empty(value.shape).copy_(value)  # of `clone` on the meta device torch imports sympy, slowly
            if learn:
                self.register_parameter(name, nn.Parameter(own))
            else:
                self.register_buffer(name, own)


class LMR(nn.Module):
    """Local recurrent models for human mesh recovery (Li et al. 2021, section 3.2), for any plan.

    `kinlmr.build` makes one from names and numbers, and says what the options mean. Parameters are named as in
    ``parts.left_arm.rnn.weight_ih_l0`` and have torch.nn's own shapes and gate order. ``options`` is what `build` was
    told, ``schedule`` what is computed once. Forward writes nothing to the module: state goes in and comes out.

    The engine reads the parameters of the nodes' modules and never calls these modules: hooks and wrappers belong on
    the whole LMR (on a part they are refused). Live loops run under `torch.inference_mode()`; otherwise autograd keeps
    every frame. ``block`` overrides how many frames the engine takes together (`engine.choose_block`); ``checksum`` is
    that of the weights that `kinlmr.load` read, 0 of none.
    """

    order: Tensor
    restore: Tensor
    shape: ShapeNode | None
    camera: RecurrentNode | None
    block: int | None = None
    checksum: int = 0

    def __init__(self, plan: Plan, rotation: Rotation, cell: Cell, start: Estimate, options: Options) -> None:
        super().__init__()
        self.plan, self.rotation, self.cell, self.options = plan, rotation, cell, options
        self.widths = (*(len(joints) * rotation.dimension for joints in plan.joints), options.shape, options.camera)
        nodes = _nodes(plan, cell, options, self.widths)
        cells = {node.name: RecurrentNode(node) for node in nodes if node.cell}
        self.parts = nn.ModuleDict({part: cells[f"parts.{part}"] for part in plan.parts})
        self.shape = next((ShapeNode(node, options.dropout) for node in nodes if node.cell is None), None)
        self.camera = cells.get("camera")
        self.start = Start(start, options.learn_start)
        self.schedule = engine.compile_schedule(nodes, self.widths, options.iterations, options.features)
        self.state_size = (options.iterations, sum(self.schedule.memory_sizes))
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

    def initial_estimate(self) -> Tensor:
        """What the first iteration starts from (D): the slots of the parts in plan order, of shape, of camera."""
        return torch.cat([self.start.pose[self.order].flatten(), self.start.shape, self.start.camera])

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
        self._check_features(features, "B, T, F")
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
        self._check_features(frame, "B, F")
        self._check_finite(frame[:, None])
        estimate, after = self._run(frame[:, None], None, state, False)
        return Estimate(*(x[:, 0] for x in estimate)), after

    def live(self) -> Live:
        """The weights as they are now, laid out for one frame at a time: see `Live`."""
        return Live(self)

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
        start = self.initial_estimate()
        out, after = engine.run(
            self.schedule, self.nodes(), features, start, state.memory, lengths, every=every, block=self.block
        )
        return self._estimate(out if every else out[0]), State(after)

    def _estimate(self, out: Tensor) -> Estimate:
        """The engine's numbers (..., D) by name, joints in skeleton order."""
        pose, shape, camera = out.split((sum(self.widths[:-2]), *self.widths[-2:]), -1)
        return Estimate(pose.unflatten(-1, (-1, self.rotation.dimension))[..., self.restore, :], shape, camera)

    def _check_features(self, features: Tensor, axes: str) -> None:
        own, width = self.start.pose, self.options.features
        form = f"features ({axes}) with F = {width}"
        if not isinstance(features, Tensor):
            raise TypeError(f"expected {form}, a torch.Tensor, not {type(features).__name__}; use torch.as_tensor")
        if features.ndim != len(axes.split()) or features.shape[-1] != width:
            raise ValueError(f"expected {form}, not shape {tuple(features.shape)}")
        if 0 in features.shape[1:]:
            raise ValueError(f"expected {form} and at least one frame, not shape {tuple(features.shape)}")
        if features.device != own.device:
            raise ValueError(f"features are on {features.device}, the model on {own.device}; move one of them")
        if features.dtype != own.dtype:
            kind = features.device.type
            if not (torch.is_autocast_enabled(kind) and features.dtype == torch.get_autocast_dtype(kind)):
                raise ValueError(
                    f"features are {features.dtype}, the model is {own.dtype}; use features.to({own.dtype})"
                )

    def _check_finite(self, features: Tensor) -> None:
        """A NaN would stay in the state for ever; it is named here, while one still knows which frame brought it."""
        if self.options.allow_nan or traced() or _capturing(features):
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
            mend = "start with state None"
            if isinstance(memory, Tensor) and memory.shape[1:] == expected[1:]:
                mend = "state.select(rows) picks people, kinlmr.concat([state, model.initial_state(n)]) adds new ones"
            raise ValueError(f"expected a State with memory (B, V, M) = {expected}, not {seen}; {mend}")
        if memory.device != own.device or memory.dtype != own.dtype:
            raise ValueError(f"the state is {memory.dtype} on {memory.device}, the model {own.dtype} on {own.device}")
        return state

    def __repr__(self) -> str:
        o, sizes = self.options, sorted(set(self.options.hidden.values()))
        numbers = sum(p.numel() for p in self.parameters())
        return (
            f"LMR({o.cell}, hidden {', '.join(map(str, sizes))}, {o.iterations} iterations, "
            f"{o.features} features, rotation {self.rotation.name}, {numbers:,} parameters)\n{self.plan}"
        )


class Live:
    """A model for live use: ``step`` as `LMR.step`, about twice as fast, without gradients. `kinlmr.recover` takes it.

    It is a snapshot: whatever is done to the model later, its weights, device or mode, does not reach it (of all that
    kinlmr computes with weights, this alone does so). ValueError for a model that drops numbers at random.

    >>> import kinlmr
    >>> model = kinlmr.build(features=5, hidden=4)
    >>> live, frame = model.live(), torch.randn(1, 5)
    >>> torch.allclose(live.step(frame)[0].pose, model.step(frame)[0].pose, atol=1e-5)
    True
    """

    training = False

    def __init__(self, model: LMR) -> None:
        if model.training and model.options.dropout:
            raise ValueError("the model is in training mode, and drops numbers at random; call model.eval() first")
        own = self._model = copy.deepcopy(model)
        self.plan, self.options, self.rotation, self.start = own.plan, own.options, own.rotation, own.start
        self.checksum = own.checksum
        self._snapshot = engine.snapshot(own.schedule, own.nodes(), own.initial_estimate())

    def initial_state(self, batch: int) -> State:
        """As `LMR.initial_state`."""
        return self._model.initial_state(batch)

    def matrices(self, estimate: Estimate) -> Tensor:
        """As `LMR.matrices`."""
        return self._model.matrices(estimate)

    @inference
    def step(self, frame: Tensor, state: State | None = None) -> tuple[Estimate, State]:
        """One frame of a stream: arguments and results of `LMR.step`, whose numbers differ by rounding only."""
        own = self._model
        own._check_features(frame, "B, F")
        own._check_finite(frame[:, None])
        state = own.initial_state(len(frame)) if state is None else own._check_state(state, frame)
        out, after = engine.frame(self._snapshot, frame, state.memory)
        return own._estimate(out), State(after)

    def __call__(self, features: Tensor, *, state: State) -> tuple[Estimate, State]:
        """Frames (B, T, F), one after another: the estimate (B, T, ...), and the state after the last."""
        found = []
        for frame in features.unbind(1):
            estimate, state = self.step(frame, state)
            found.append(estimate)
        return Estimate(*(torch.stack(x, 1) for x in zip(*found, strict=True))), state


def _nodes(plan: Plan, cell: Cell, options: Options, widths: tuple[int, ...]) -> list[Node]:
    """The nodes in the order they run: the parts in plan order, shape, camera; without those that have no numbers."""
    end = len(plan.levels)
    kinds = [
        *((f"parts.{part}", level, cell, options.hidden[part], False) for part, level in _levels(plan)),
        ("shape", end, None, options.shape_hidden, options.shape_input == "mean"),
        ("camera", end + 1, cell, options.hidden["camera"], options.camera_input == "initial"),
    ]
    inputs = [options.features + sum(widths[slot] for slot in reads) for reads in plan.reads]
    return [
        Node(name, level, kind, hidden, options.layers, inputs[slot], plan.reads[slot], slot, widths[slot], restarted)
        for slot, (name, level, kind, hidden, restarted) in enumerate(kinds)
        if widths[slot]
    ]


def _levels(plan: Plan) -> Iterator[tuple[str, int]]:
    """The parts in plan order, each with its level, if a module can carry their names."""
    for level, parts in enumerate(plan.levels):
        for part in (plan.parts[index] for index in parts):
            if hasattr(nn.ModuleDict, part) or part in nn.ModuleDict().__dict__:
                raise ValueError(
                    f"skeleton {plan.skeleton.name!r}: part {part!r} has the name of an attribute of "
                    f"torch.nn.ModuleDict; rename it, for example {part}_part"
                )
            yield part, level


def _whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _capturing(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
