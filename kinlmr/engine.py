"""The engine: runs a plan's nodes over frames and iterations, as one staggered sweep.

The estimate of a frame is one row of D numbers, a slot per node (the parts in plan order, shape, camera), and a zero. A
node reads the frame's features and some slots, and adds a residual to its own. Everything is causal, so at tick s
iteration v can refine frame s - v: the V iterations walk the clip one frame apart, as rows of the same products, in
T + V - 1 ticks. That is exact, because a node needs of frame t only what earlier nodes and iterations made of it, and
its own memory of frame t - 1 in the same iteration.

At a tick the iterations hi, hi - 1 .. lo are at work on the frames s - hi .. s - lo; their rows R lie in this order, B
to each. Nodes of one level and hidden size are one batched cell, and all recurrences of a hidden size are one product.
What the features say to a gate is computed once, not in every iteration. Nodes that read or write less than their
neighbours are padded: with weight zero they read the column of zeros, and add zero to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, pad

from kinlmr.stacks import Stack

Leaves = list[list[tuple[nn.Module, str]]]
FEW = 4
ROWS = 128  # the features of so many rows (frames times clips) are looked at together


class Group(NamedTuple):
    """Nodes whose weights are stacked: recurrent ones ("gru", "lstm") of one hidden size, or the shape network ("mlp").

    In M a group's memory is (vectors, rows, hidden), a row per layer of every node.
    """

    kind: str
    vectors: int
    rows: int
    hidden: int

    def saves(self, level: Level) -> int:
        """How many tensors of a level a tick leaves on the tape."""
        return 3 if self.kind == "mlp" else 1 + CELLS[self.kind][2] * len(level.rows)


class Level(NamedTuple):
    """n nodes of one group that do not read one another: one batch.

    own: their place in the group; rows, ups: in its memory, layer by layer, and in what leads from layer to layer.
    reads (n K), writes (n O): their columns, as a place in the index; anew: the columns that start anew each iteration.
    """

    group: int
    n: int
    own: slice
    rows: list[slice]
    ups: list[slice]
    reads: slice
    writes: slice
    anew: slice


class Weights(NamedTuple):
    """A group's stacks, of n nodes, G gate numbers (3 or 4 times H) and rows (n times layers).

    look (n, F + K, G) is what the first layer sees, hidden (rows, G, H) what it remembers, up (rows - n, G, H) leads from
    layer to layer, head (n, O, H) to the residual; biases (n, G) and so on. The shape network: fc1, none, fc2, its head.
    """

    look: Tensor
    look_bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    up: Tensor
    up_bias: Tensor
    head: Tensor
    head_bias: Tensor


class Sweep:
    """Nodes, compiled. ``index`` lists the columns of all levels; `run` takes it as a tensor."""

    def __init__(
        self,
        nodes: Sequence[Any],
        levels: Sequence[Sequence[int]],
        reads: Sequence[Sequence[int]],
        widths: Sequence[int],
        frozen: Sequence[int],
        iterations: int,
    ) -> None:
        """nodes (None where a slot has none) and their levels, in the order they run; the slots that each reads after
        the features; the slots' widths; the slots ``frozen`` start anew in every iteration."""
        self.iterations = iterations
        slots = [list(range(sum(widths[:i]), sum(widths[: i + 1]))) for i in range(len(widths))]
        index: list[int] = []

        def table(rows: list[list[int]]) -> slice:
            begin, longest = len(index), max(map(len, rows))
            index.extend(c for row in rows for c in row + [sum(widths)] * (longest - len(row)))
            return slice(begin, len(index))

        alike: dict[tuple[str, int], list[list[int]]] = {}  # every group's nodes, level by level
        self.levels: list[Level] = []
        for level in levels:
            here: dict[tuple[str, int], list[int]] = {}
            for n in level:
                if nodes[n] is not None:
                    here.setdefault((nodes[n].kind, nodes[n].hidden), []).append(n)
            for kind, own in here.items():
                batches = alike.setdefault(kind, [])
                first, count, leaves = sum(map(len, batches)), len(own), nodes[own[0]].leaves()
                rows, ups = (
                    [slice(first * d + i * count, first * d + (i + 1) * count) for i in range(d)]
                    for d in (len(leaves[2]), len(leaves[4]))
                )
                columns = (
                    table([[c for slot in reads[n] for c in slots[slot]] for n in own]),
                    table([slots[n] for n in own]),
                    table([[c for n in own if n in frozen for c in slots[n]]]),
                )
                place = list(alike).index(kind), count, slice(first, first + count), rows, ups
                self.levels.append(Level(*place, *columns))
                batches.append(own)
        self.index = index

        self.groups: list[Group] = []
        self.stacks: list[list[Stack]] = []
        for (kind, hidden), batches in alike.items():
            trees = [[nodes[n].leaves() for n in level] for level in batches]
            self.stacks.append(
                [
                    Stack(
                        [node[leaf][i] for level in trees for i in range(len(level[0][leaf])) for node in level],
                        turned=name == "look",
                    )
                    for leaf, name in enumerate(Weights._fields)
                ]
            )
            self.groups.append(Group(kind, nodes[batches[0][0]].vectors, len(self.stacks[-1][2].holders), hidden))

    @property
    def memory(self) -> int:
        """M, how many numbers an iteration remembers."""
        return sum(group.vectors * group.rows * group.hidden for group in self.groups)

    def lay(self) -> None:
        """Lay the parameters side by side again, where something has parted them."""
        for stacks in self.stacks:
            for stack in stacks:
                stack.lay()


class Job(NamedTuple):
    """What stays the same during a sweep. inside (T B, 1) or None: where memory moves on; every: keep all iterations."""

    sweep: Sweep
    index: Tensor
    inside: Tensor | None
    every: bool
    dropout: float

    def ticks(self, frames: int, batch: int) -> Iterator[tuple[int, int, int, int]]:
        """The tick, the newest and the oldest iteration at work, and their rows."""
        for s in range(frames + self.sweep.iterations - 1):
            lo, hi = max(0, s - frames + 1), min(self.sweep.iterations - 1, s)
            yield s, lo, hi, (hi - lo + 1) * batch

    def levels(self) -> list[tuple[Level, Group, Tensor, Tensor, Tensor]]:
        """The levels with their groups, and the columns that they read, write and start anew."""
        of = lambda level: (self.index[place] for place in level[-3:])  # noqa: E731
        return [(level, self.sweep.groups[level.group], *of(level)) for level in self.sweep.levels]

    def unpack(self, inputs: Sequence[Any]) -> tuple[Sequence[Tensor | None], list[Weights]]:
        """Every group's memory, and its weights."""
        count, width = len(self.sweep.groups), len(Weights._fields)
        return inputs[:count], [Weights(*inputs[i : i + width]) for i in range(count, len(inputs), width)]


def run(
    sweep: Sweep,
    index: Tensor,
    features: Tensor,
    start: Tensor,
    memory: Tensor | None,
    inside: Tensor | None = None,
    every: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Refine the start estimate of every frame, V times.

    features (B, T, F); start (D); memory (B, V, M) or None for zeros; inside (B, T), False past a clip's end, where memory
    stands still -> the estimate after every iteration (V, B, T, D), or the last (1, B, T, D); memory (B, V, M)

    Products are computed in the weights' type, or in autocast's; the estimate and memory in float32 at least.
    """
    batch, device = features.shape[0], features.device.type
    exact = torch.promote_types(start.dtype, torch.float32)
    weights = [stack.tensor() for stacks in sweep.stacks for stack in stacks]
    if torch.is_autocast_enabled(device):
        weights = [w.to(torch.get_autocast_dtype(device)) for w in weights]
    forms = [(group.vectors, group.rows, group.hidden) for group in sweep.groups]
    before: list[Tensor | None] = [None] * len(forms)
    if memory is not None:
        parts = memory.to(exact).split([v * r * h for v, r, h in forms], -1)
        before = [
            m.view(*m.shape[:2], *f).permute(2, 3, 1, 0, 4).flatten(2, 3) for m, f in zip(parts, forms, strict=True)
        ]
    job = Job(sweep, index, None if inside is None else inside.T.reshape(-1, 1), every, dropout)
    inputs = (features.transpose(0, 1), pad(start.to(exact)[None], (0, 1)), *before, *weights)
    with torch.autocast(device, enabled=False):
        wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        out, *after = _Sweep.apply(job, *inputs) if wanted and not traced else walk(job, None, *inputs)
    ends = [m.unflatten(2, (sweep.iterations, batch)).permute(3, 2, 0, 1, 4).flatten(2) for m in after]
    return out[..., :-1].transpose(1, 2).to(start.dtype), torch.cat(ends, -1).to(start.dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, R, in), weight (n, out, in), bias (n, out) -> (n, R, out). For few rows the weights are better the left side."""
    x = x.to(weight.dtype)
    if not torch.compiler.is_compiling() and x.shape[1] <= FEW:
        return torch.baddbmm(bias[..., None], weight, x.mT).mT
    return torch.baddbmm(bias[:, None], x, weight.mT)


# ------------------------------------------------------------------------------------------------------------ the cells


def gru(gi: Tensor, gh: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torch.nn.GRU's cell: what its input and its memory say to the gates (..., 3 H), memory (1, ..., H) -> memory after,
    and what `gru_back` needs."""
    h = memory[0]
    size = h.shape[-1]
    rz = torch.sigmoid(gi[..., : 2 * size] + gh[..., : 2 * size])
    hn = gh[..., 2 * size :]
    n = torch.tanh(torch.addcmul(gi[..., 2 * size :], rz[..., :size], hn))
    return torch.lerp(n, h, rz[..., size:])[None], [rz, n, hn]


def gru_back(d: Tensor, memory: Tensor, rz: Tensor, n: Tensor, hn: Tensor, gi: Tensor, gh: Tensor) -> Tensor:
    """From the adjoint of memory after: those of gi and gh, written into them, and of memory before, without gh's."""
    h, r, z, size = memory[0], *rz.chunk(2, -1), n.shape[-1]
    straight = d[0] * z
    dn = (d[0] - straight) * (1 - n * n)
    gi[..., :size], gi[..., size : 2 * size], gi[..., 2 * size :] = (
        dn * hn * (r - r * r),
        straight * (1 - z) * (h - n),
        dn,
    )
    gh[..., : 2 * size], gh[..., 2 * size :] = gi[..., : 2 * size], dn * r
    return straight[None]


def lstm(gi: Tensor, gh: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torch.nn.LSTM's cell, likewise; its memory (2, ..., H) is h and c."""
    i, f, g, o = (gi + gh).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * memory[1] + i * g
    t = c.tanh()
    return torch.stack([o * t, c]), [i, f, g, o, t]


def lstm_back(
    d: Tensor, memory: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, t: Tensor, gi: Tensor, gh: Tensor
) -> Tensor:
    dc = d[1] + d[0] * o * (1 - t * t)
    di, df, dg, do = dc * g * (i - i * i), dc * memory[1] * (f - f * f), dc * i * (1 - g * g), d[0] * t * (o - o * o)
    gi.copy_(gh.copy_(torch.cat([di, df, dg, do], -1)))
    return torch.stack([torch.zeros_like(dc), dc * f])


CELLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "gru": (gru, gru_back, 3),
    "lstm": (lstm, lstm_back, 5),
}


# ------------------------------------------------------------------------------------------------------------ the sweep


def walk(job: Job, tape: list[list[Tensor]] | None, phi: Tensor, start: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    """phi (T, B, F), start (1, D + 1), of every group memory (vectors, rows, V B, H) or None, and weights -> the estimate
    (V or 1, T, B, D + 1), and every group's memory after. What `back` needs of a tick goes on the tape."""
    (frames, batch, width), last = phi.shape, job.sweep.iterations - 1
    (memory, weights), levels = job.unpack(inputs), job.levels()
    block = [slice(v * batch, (v + 1) * batch) for v in range(last + 1)]

    def look(a: int, b: int) -> list[Tensor]:
        """What frames a .. b - 1 say to the gates of every group: (n, rows, G)."""
        seen = phi[a:b].reshape(1, -1, width).to(weights[0].look.dtype)
        return [
            torch.baddbmm(w.look_bias[:, None], seen.expand(len(w.look), -1, -1), w.look[:, :width]) for w in weights
        ]

    cells = [i for i, group in enumerate(job.sweep.groups) if group.rows]
    first, said = list(memory), [None] * len(memory)
    for i, group, w in ((i, job.sweep.groups[i], weights[i]) for i in cells):
        rows = (last + 1) * batch
        if memory[i] is None:
            first[i] = start.new_zeros(group.vectors, group.rows, rows, group.hidden)
            said[i] = w.hidden_bias[:, None].expand(-1, rows, -1)
        else:  # all iterations at once: a stream reads these weights once a frame
            said[i] = product(memory[i][0], w.hidden, w.hidden_bias)
    now, gates = ({i: x[i][..., block[0], :] for i in cells} for x in (first, said))

    estimate, table, low, top = start[:0], [], 0, 0
    out: list[list[Tensor]] = [[] for _ in block]
    ends: dict[int, list[Any]] = {i: [None] * len(block) for i in cells}
    for s, lo, hi, rows in job.ticks(frames, batch):
        if s < frames:  # a frame enters
            estimate = torch.cat([estimate, start.expand(batch, -1)])
        if top == s < frames:
            old, top = (
                (s - hi - low) * batch,
                min(frames, s + max(ROWS // batch, 1)) if frames > 1 and batch else frames,
            )
            new, low = look(s, top), s - hi
            table = [torch.cat([x[:, old:], y], 1) for x, y in zip(table, new, strict=True)] if table else new
        at = slice((s - hi - low) * batch, (s - lo + 1 - low) * batch)
        record = [now[i] for i in cells]
        done: dict[int, list[Tensor]] = {i: [] for i in cells}
        for level, group, reads, writes, anew in levels:
            w, own = weights[level.group], level.own
            if len(anew):
                estimate = estimate.index_copy(1, anew, start[:, anew].expand(rows, -1))
            x = estimate.index_select(1, reads).unflatten(1, (level.n, -1)).transpose(0, 1).to(w.look.dtype)
            y = torch.baddbmm(table[level.group][own, at], x, w.look[own, width : width + x.shape[-1]])
            record.append(x)
            if group.kind == "mlp":
                y = dropout(y.relu(), job.dropout)
                record.append(y)
                y = dropout(product(y, w.up, w.up_bias).relu(), job.dropout)
                record.append(y)
            for i, part in enumerate(level.rows):
                if i:
                    y = product(y, w.up[level.ups[i - 1]], w.up_bias[level.ups[i - 1]])
                before, gh = now[level.group][:, part], gates[level.group][part]
                after, kept = CELLS[group.kind][0](y.to(start.dtype), gh.to(start.dtype), before)
                if job.inside is not None:
                    after = torch.where(job.inside[(s - hi) * batch : (s - lo + 1) * batch], after, before)
                if tape is not None:
                    record += [v.contiguous() for v in kept]
                done[level.group].append(after)
                y = after[0]
            o = len(writes) // level.n
            y = product(y, w.head[own, :o], w.head_bias[own, :o])
            estimate = estimate.index_add(1, writes, y.transpose(0, 1).flatten(1).to(start.dtype))
        now = {i: torch.cat(done[i], 1) for i in cells}
        if tape is not None:
            tape.append(record + [now[i][0] for i in cells])
        for v in range(lo if job.every else last, hi + 1):
            out[v].append(estimate[(hi - v) * batch : (hi - v + 1) * batch])
        if hi == last:  # a frame leaves
            estimate = estimate[batch:]
        ended = s - lo == frames - 1
        for i in cells:
            if ended:  # iteration lo has seen its last frame
                ends[i][lo], now[i] = now[i][:, :, rows - batch :], now[i][:, :, : rows - batch]
            parts = (
                [(now[i], product(now[i][0], weights[i].hidden, weights[i].hidden_bias))] if hi - lo >= ended else []
            )
            if s < last:  # iteration s + 1 begins
                parts.insert(0, (first[i][:, :, block[s + 1]], said[i][:, block[s + 1]]))
            if parts:
                now[i], gates[i] = (torch.cat(x, -2) if len(x) > 1 else x[0] for x in zip(*parts, strict=True))
    empty = start.new_zeros(1, 0, (last + 1) * batch, 1)
    return torch.stack([torch.stack(o) for o in out if o]), *(
        torch.cat(ends[i], 2) if i in cells else empty for i in range(len(weights))
    )


class _Sweep(Function):
    """`walk` with `back` as its derivative."""

    @staticmethod
    def forward(ctx: Any, job: Job, *inputs: Any) -> tuple[Tensor, ...]:
        tape: list[list[Tensor]] = []
        result = walk(job, tape, *inputs)
        ctx.job, ctx.counts = job, [len(inputs), *map(len, tape)]
        ctx.save_for_backward(*inputs, *(x for record in tape for x in record))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        inputs, *tape = ([next(saved) for _ in range(count)] for count in ctx.counts)
        with torch.autocast(adjoints[0].device.type, enabled=False):
            return None, *back(ctx.job, ctx.needs_input_grad[1], tape, adjoints, *inputs)


def back(
    job: Job,
    wanted: bool,
    tape: list[list[Tensor]],
    adjoints: Sequence[Tensor],
    phi: Tensor,
    start: Tensor,
    *inputs: Any,
) -> list[Tensor | None]:
    """The sweep backwards: from the adjoints of what `walk` returned to those of phi (if wanted) and its other inputs.

    Every group collects, tick by tick, the adjoints of all products that go into its gates: look (n, V T B, G), hidden
    and up likewise; what went into them stands on the tape. So a weight's gradient is one product, after the last tick.
    """
    (frames, batch, width), last = phi.shape, job.sweep.iterations - 1
    (memory, weights), levels, (dout, *dends) = job.unpack(inputs), job.levels(), adjoints
    cells = [i for i, group in enumerate(job.sweep.groups) if group.rows]
    rows_all = (last + 1) * frames * batch
    dlook, dhidden, dup = (
        [b.new_empty(len(b), rows_all, w.look.shape[-1]) for w in weights for b in [w[kind]]] for kind in (1, 3, 5)
    )
    dtable = [b.new_zeros(len(b), frames * batch, b.shape[-1]) for w in weights for b in [w.look_bias]]
    seen: list[list[Any]] = [[] for _ in levels]  # by level: x, the head's input and adjoint, the inputs of up
    remembered: dict[int, list[Tensor]] = {i: [] for i in cells}

    destimate, dstart, end = dout[0, 0, :0], torch.zeros_like(start), rows_all
    dnow = [d[:, :, :0] for d in dends]
    dfirst: dict[int, list[Tensor]] = {i: [] for i in cells}
    for s, lo, hi, rows in reversed(list(job.ticks(frames, batch))):
        record, tick, end = iter(tape.pop()), slice(end - rows, end), end - rows
        before = {i: next(record) for i in cells}
        kept = [[next(record) for _ in range(group.saves(level))] for level, group, *_ in levels]
        after = {i: next(record) for i in cells}
        frame = slice((s - hi) * batch, (s - lo + 1) * batch)
        if s - lo == frames - 1:
            dnow = [torch.cat([d, e[:, :, lo * batch : (lo + 1) * batch]], 2) for d, e in zip(dnow, dends, strict=True)]
        if hi == last:
            destimate = torch.cat([torch.zeros_like(dout[0, 0]), destimate])
        for v in range(lo if job.every else last, hi + 1):
            destimate[(hi - v) * batch : (hi - v + 1) * batch] += dout[v if job.every else 0, s - v]
        straight: dict[int, list[Tensor]] = {i: [] for i in cells}
        for at, (level, group, reads, writes, anew) in reversed(list(enumerate(levels))):
            i, own, (x, *saved), w = level.group, level.own, kept[at], weights[level.group]
            tops = saved if group.kind == "mlp" else [after[i][part] for part in level.rows]
            d = destimate.index_select(1, writes).unflatten(1, (level.n, -1)).transpose(0, 1).to(x.dtype)
            seen[at].append((x, d, *tops))
            d, g = d @ w.head[own, : d.shape[-1]], dlook[i][own, tick]
            if group.kind == "mlp":
                scale = 1 / (1 - job.dropout)
                d = torch.mul(d * scale, saved[1] > 0, out=dup[i][:, tick]) @ w.up
                torch.mul(d * scale, saved[0] > 0, out=g)
            for layer, part in reversed(list(enumerate(level.rows))):
                dmemory = torch.cat([(dnow[i][:1, part] + d), dnow[i][1:, part]])
                still = 0 if job.inside is None else torch.where(job.inside[frame], 0, dmemory)
                gi = dup[i][level.ups[layer - 1], tick] if layer else g
                size = len(saved) // len(level.rows)
                values = before[i][:, part], *saved[layer * size : (layer + 1) * size], gi, dhidden[i][part, tick]
                straight[i].append(CELLS[group.kind][1](dmemory - still, *values) + still)
                d = gi @ w.up[level.ups[layer - 1]] if layer else gi
            dtable[i][own, frame] += g
            dx = (g @ w.look[own, width : width + x.shape[-1]].mT).transpose(0, 1).flatten(1)
            destimate = destimate.index_add(1, reads, dx.to(start.dtype))
            if len(anew):
                dstart[0, anew] += destimate[:, anew].sum(0)
                destimate = destimate.index_fill(1, anew, 0)
        for i in cells:
            remembered[i].append(before[i][0])
            dnow[i] = torch.cat(straight[i][::-1], 1)
            dnow[i][0] += dhidden[i][:, tick] @ weights[i].hidden
            if s <= last:  # iteration s began here
                dfirst[i].append(dnow[i][:, :, :batch])
                dnow[i] = dnow[i][:, :, batch:]
        if s < frames:  # a frame entered here
            dstart += destimate[rows - batch :].sum(0)
            destimate = destimate[: rows - batch]

    flat = phi.reshape(1, -1, width).to(weights[0].look.dtype)
    dphi = torch.zeros_like(flat[0]) if wanted else None
    dweights = [Weights(*map(torch.empty_like, w[:6]), *map(torch.zeros_like, w[6:])) for w in weights]
    for i, (w, dw) in enumerate(zip(weights, dweights, strict=True)):
        torch.bmm(flat.mT.expand(len(w.look), -1, -1), dtable[i], out=dw.look[:, :width])
        dw.look[:, width:] = 0
        torch.sum(dtable[i], 1, out=dw.look_bias)
        for one, look in zip(dtable[i], w.look, strict=True) if dphi is not None else []:
            dphi.addmm_(one, look[:width].T)
        if i in cells:
            torch.bmm(dhidden[i].mT, _joined(remembered[i], w.hidden.dtype), out=dw.hidden)
            torch.sum(dhidden[i], 1, out=dw.hidden_bias)
        if len(w.up):
            torch.sum(dup[i], 1, out=dw.up_bias)
    for (level, *_), ticks in zip(levels, seen, strict=True):
        dw, own = dweights[level.group], level.own
        x, d, *tops = (_joined(list(parts), weights[level.group].look.dtype) for parts in zip(*ticks, strict=True))
        dw.look[own, width : width + x.shape[-1]] = x.mT @ dlook[level.group][own]
        dw.head[own, : d.shape[-1]], dw.head_bias[own, : d.shape[-1]] = d.mT @ tops[-1], d.sum(1)
        for up, top in zip(level.ups, tops, strict=False):
            dw.up[up] = dup[level.group][up].mT @ top
    dmemory_all = [None if m is None or i not in cells else torch.cat(dfirst[i][::-1], 2) for i, m in enumerate(memory)]
    return [
        None if dphi is None else dphi.view(phi.shape).to(phi.dtype), dstart, *dmemory_all,
        *(d if d.numel() else None for group in dweights for d in group),
    ]  # fmt: skip


def _joined(ticks: list[Tensor], dtype: torch.dtype) -> Tensor:
    """What was collected from the last tick to the first, (n, R, ...) each, in order."""
    return torch.cat(ticks[::-1], 1).to(dtype)
