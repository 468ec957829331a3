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

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import dropout, pad

from kinlmr.cells import KINDS, product
from kinlmr.schedule import Schedule, Weights

ROWS = 64  # the features of so many rows (frames times clips) are looked at together


class Job(NamedTuple):
    """What stays the same during a sweep. inside (T B, 1) or None: where memory moves; every: keep all iterations."""

    schedule: Schedule
    columns: Tensor
    inside: Tensor | None
    every: bool
    dropout: float

    def ticks(self, frames: int, batch: int) -> Iterator[tuple[int, int, int, int]]:
        """The tick, the newest and the oldest iteration at work, and their rows."""
        for s in range(frames + self.schedule.iterations - 1):
            lo, hi = max(0, s - frames + 1), min(self.schedule.iterations - 1, s)
            yield s, lo, hi, (hi - lo + 1) * batch

    def unpack(self, inputs: Sequence[Any]) -> tuple[Sequence[Tensor | None], list[Weights]]:
        """Every group's memory, and its weights."""
        count, width = len(self.schedule.groups), len(Weights._fields)
        return inputs[:count], [Weights(*inputs[i : i + width]) for i in range(count, len(inputs), width)]


def run(
    schedule: Schedule, columns: Tensor, weights: list[Tensor], features: Tensor, start: Tensor,
    memory: Tensor | None, inside: Tensor | None, every: bool, dropout: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refine the start estimate of every frame, V times.

    columns and weights are the schedule's; features (B, T, F); start (D); memory (B, V, M), None for zeros; inside
    (B, T), False past a clip's end, where memory stands still, or None -> estimates (V, B, T, D) after every iteration,
    or (1, B, T, D) after the last; memory (B, V, M)

    Products are computed in the weights' type, or in autocast's; the estimate and memory in float32 at least.
    """
    batch, device = features.shape[0], features.device.type
    exact = torch.promote_types(start.dtype, torch.float32)
    if torch.is_autocast_enabled(device):
        weights = [w.to(torch.get_autocast_dtype(device)) for w in weights]
    forms = [(group.vectors, group.rows, group.hidden) for group in schedule.groups]
    before: list[Tensor | None] = [None] * len(forms)
    if memory is not None:
        parts = list(memory.to(exact).split([v * r * h for v, r, h in forms], -1))
        parts = [m.view(*m.shape[:2], *form) for m, form in zip(parts, forms, strict=True)]
        before = [m.permute(2, 3, 1, 0, 4).flatten(2, 3) for m in parts]
    job = Job(schedule, columns, None if inside is None else inside.T.reshape(-1, 1), every, dropout)
    inputs: list[Any] = [features.transpose(0, 1), pad(start.to(exact)[None], (0, 1)), *before, *weights]
    with torch.autocast(device, enabled=False):
        wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        out, *after = _Sweep.apply(job, *inputs) if wanted and not traced else walk(job, None, *inputs)
    ends = [m.unflatten(2, (schedule.iterations, batch)).permute(3, 2, 0, 1, 4).flatten(2) for m in after]
    return out[..., :-1].transpose(1, 2).to(start.dtype), torch.cat(ends, -1).to(start.dtype)


# ------------------------------------------------------------------------------------------------------------ the sweep


def walk(job: Job, tape: list[list[Tensor]] | None, phi: Tensor, start: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    """phi (T, B, F), start (1, D + 1), every group's memory (vectors, rows, V B, H) or None, every group's weights ->
    estimate (V or 1, T, B, D + 1), every group's memory after. What `back` needs of a tick goes on the tape."""
    (frames, batch, width), last = phi.shape, job.schedule.iterations - 1
    memory, weights = job.unpack(inputs)
    batches = job.schedule.batches(job.columns, weights, width)
    block = [slice(v * batch, (v + 1) * batch) for v in range(last + 1)]

    def look(a: int, b: int) -> list[Tensor]:
        """What frames a .. b - 1 say to the gates of every group: (n, rows, G)."""
        seen = phi[a:b].reshape(1, -1, width)
        wide = [seen.to(w.look.dtype).expand(len(w.look), -1, -1) for w in weights]
        return [product(x, w.look[:, :width].mT, w.look_bias) for x, w in zip(wide, weights, strict=True)]

    cells = [i for i, group in enumerate(job.schedule.groups) if group.rows]
    first, said, rows = {}, {}, (last + 1) * batch
    for i in cells:
        group, w, m = job.schedule.groups[i], weights[i], memory[i]
        first[i] = start.new_zeros(group.vectors, group.rows, rows, group.hidden) if m is None else m
        # all iterations at once: a stream reads these weights once a frame
        said[i] = w.hidden_bias[:, None].expand(-1, rows, -1) if m is None else product(m[0], w.hidden, w.hidden_bias)
    now, gates = ({i: x[i][..., block[0], :] for i in cells} for x in (first, said))

    estimate, low, top = start[:0], 0, 0
    table: list[Tensor] = []
    chunk = max(ROWS // batch, 1) if frames > 1 and batch else frames
    out: list[list[Tensor]] = [[] for _ in block]
    ends: dict[int, list[Any]] = {i: [None] * len(block) for i in cells}
    for s, lo, hi, rows in job.ticks(frames, batch):
        if s < frames:  # a frame enters
            estimate = torch.cat([estimate, start.expand(batch, -1)])
        if top == s < frames:
            old, low, top = (s - hi - low) * batch, s - hi, min(frames, s + chunk)
            new = look(s, top)
            table = [torch.cat([x[:, old:], y], 1) for x, y in zip(table, new, strict=True)] if table else new
        at = slice((s - hi - low) * batch, (s - lo + 1 - low) * batch)
        record = [now[i] for i in cells]
        done: dict[int, list[Tensor]] = {i: [] for i in cells}
        for level, group, reads, writes, anew, slots, head, head_bias, ups in batches:
            if len(anew):
                estimate = estimate.index_copy(1, anew, start[:, anew].expand(rows, -1))
            x = estimate.index_select(1, reads).unflatten(1, (level.n, -1)).transpose(0, 1).to(slots.dtype)
            y = torch.baddbmm(table[level.group][level.own, at], x, slots)
            record.append(x)
            if group.kind == "mlp":
                y = dropout(y.relu(), job.dropout)
                record.append(y)
                y = dropout(product(y, *ups[0]).relu(), job.dropout)
                record.append(y)
            for i, part in enumerate(level.rows):
                if i:
                    y = product(y, *ups[i - 1])
                before, gh = now[level.group][:, part], gates[level.group][part]
                after, kept = KINDS[group.kind].forward(y.to(start.dtype), gh.to(start.dtype), before)
                if job.inside is not None:
                    after = torch.where(job.inside[(s - hi) * batch : (s - lo + 1) * batch], after, before)
                if tape is not None:
                    record += [v.contiguous() for v in kept]
                done[level.group].append(after)
                y = after[0]
            y = product(y, head, head_bias)
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
            parts = []
            if hi - lo >= ended:
                parts.append((now[i], product(now[i][0], weights[i].hidden, weights[i].hidden_bias)))
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
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "LMR's backward has no derivative of its own; instead of create_graph=True take torch.func (grad, jvp, "
                "hessian), which differentiates the sweep itself"
            )
        saved = iter(ctx.saved_tensors)
        inputs, *tape = ([next(saved) for _ in range(count)] for count in ctx.counts)
        with torch.autocast(adjoints[0].device.type, enabled=False):
            return None, *back(ctx.job, ctx.needs_input_grad[1], tape, adjoints, *inputs)


def back(
    job: Job, wanted: bool, tape: list[list[Tensor]], adjoints: Sequence[Tensor], phi: Tensor, start: Tensor, *rest: Any
) -> list[Tensor | None]:  # fmt: skip
    """The sweep backwards: from the adjoints of what `walk` returned to those of phi (if wanted) and its other inputs.

    Tick by tick the adjoints of all products that go into a group's gates are collected, as (n, V T B, G), beside what
    went into them; so every weight's gradient is one product, after the last tick.
    """
    (frames, batch, width), last = phi.shape, job.schedule.iterations - 1
    (memory, weights), (dout, *dends) = job.unpack(rest), adjoints
    batches = job.schedule.batches(job.columns, weights, width)
    cells = [i for i, group in enumerate(job.schedule.groups) if group.rows]
    end = (last + 1) * frames * batch
    empty = lambda w, n: w.look.new_empty(n, end, w.look.shape[-1])  # noqa: E731
    dlook, dhidden, dup = ([empty(w, len(w[kind])) for w in weights] for kind in (0, 2, 4))
    dtable = [w.look.new_zeros(len(w.look), frames * batch, w.look.shape[-1]) for w in weights]
    seen: list[list[Any]] = [[] for _ in batches]  # by level: x, the head's input and adjoint, the inputs of up
    remembered: dict[int, list[Tensor]] = {i: [] for i in cells}

    destimate, dstart = dout[0, 0, :0], torch.zeros_like(start)
    dnow = [d[:, :, :0] for d in dends]
    dfirst: dict[int, list[Tensor]] = {i: [] for i in cells}
    for s, lo, hi, rows in reversed(list(job.ticks(frames, batch))):
        record, tick, end = iter(tape.pop()), slice(end - rows, end), end - rows
        before = {i: next(record) for i in cells}
        kept = [[next(record) for _ in range(group.saves(level))] for level, group, *_ in batches]
        after = {i: next(record) for i in cells}
        frame = slice((s - hi) * batch, (s - lo + 1) * batch)
        if s - lo == frames - 1:
            dnow = [torch.cat([d, e[:, :, lo * batch : (lo + 1) * batch]], 2) for d, e in zip(dnow, dends, strict=True)]
        if hi == last:
            destimate = torch.cat([torch.zeros_like(dout[0, 0]), destimate])
        for v in range(lo if job.every else last, hi + 1):
            destimate[(hi - v) * batch : (hi - v + 1) * batch] += dout[v if job.every else 0, s - v]
        straight: dict[int, list[Tensor]] = {i: [] for i in cells}
        for at, (level, group, reads, writes, anew, slots, head, _, ups) in reversed(list(enumerate(batches))):
            i, own, (x, *saved) = level.group, level.own, kept[at]
            tops = saved if group.kind == "mlp" else [after[i][part] for part in level.rows]
            d = destimate.index_select(1, writes).unflatten(1, (level.n, -1)).transpose(0, 1).to(x.dtype)
            seen[at].append((x, d, *tops))
            d, g = d @ head, dlook[i][own, tick]
            if group.kind == "mlp":
                scale = 1 / (1 - job.dropout)
                d = torch.mul(d * scale, saved[1] > 0, out=dup[i][:, tick]) @ ups[0][0]
                torch.mul(d * scale, saved[0] > 0, out=g)
            for layer, part in reversed(list(enumerate(level.rows))):
                dmemory = torch.cat([(dnow[i][:1, part] + d), dnow[i][1:, part]])
                still = 0 if job.inside is None else torch.where(job.inside[frame], 0, dmemory)
                gi = dup[i][level.ups[layer - 1], tick] if layer else g
                size = len(saved) // len(level.rows)
                values = before[i][:, part], *saved[layer * size : (layer + 1) * size], gi, dhidden[i][part, tick]
                straight[i].append(KINDS[group.kind].back(dmemory - still, *values) + still)
                d = gi @ ups[layer - 1][0] if layer else gi
            dtable[i][own, frame] += g
            dx = (g @ slots.mT).transpose(0, 1).flatten(1)
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

    flat = phi.reshape(1, -1, width)
    dphi = torch.zeros_like(flat[0]) if wanted else None
    dweights = [Weights(*map(torch.empty_like, w[:6]), *map(torch.zeros_like, w[6:])) for w in weights]
    for i, (w, dw) in enumerate(zip(weights, dweights, strict=True)):
        torch.bmm(flat.mT.to(w.look.dtype).expand(len(w.look), -1, -1), dtable[i], out=dw.look[:, :width])
        dw.look[:, width:] = 0
        torch.sum(dtable[i], 1, out=dw.look_bias)
        if dphi is not None:
            for said, look in zip(dtable[i], w.look, strict=True):
                dphi += said @ look[:width].T
        if i in cells:
            torch.bmm(dhidden[i].mT, _joined(remembered[i], w.hidden.dtype), out=dw.hidden)
            torch.sum(dhidden[i], 1, out=dw.hidden_bias)
        if len(w.up):
            torch.sum(dup[i], 1, out=dw.up_bias)
    for (level, *_), ticks in zip(batches, seen, strict=True):
        dw, own = dweights[level.group], level.own
        x, d, *tops = (_joined(list(parts), weights[level.group].look.dtype) for parts in zip(*ticks, strict=True))
        dw.look[own, width : width + x.shape[-1]] = x.mT @ dlook[level.group][own]
        dw.head[own, : d.shape[-1]], dw.head_bias[own, : d.shape[-1]] = d.mT @ tops[-1], d.sum(1)
        for up, top in zip(level.ups, tops, strict=False):
            dw.up[up] = dup[level.group][up].mT @ top
    return [
        None if dphi is None else dphi.view(phi.shape),
        dstart,
        *(None if m is None or i not in cells else torch.cat(dfirst[i][::-1], 2) for i, m in enumerate(memory)),
        *(d if d.numel() else None for group in dweights for d in group),
    ]


def _joined(ticks: list[Tensor], dtype: torch.dtype) -> Tensor:
    """What was collected from the last tick to the first, (n, R, ...) each, in order."""
    return torch.cat(ticks[::-1], 1).to(dtype)
