"""Pretrain an encoder with BYOL on unlabelled photos, and write it to byol.pt.

    python train_byol.py                                    # Cats-vs-Dogs at 150 px
    python train_byol.py --config configs/cartoons.toml     # embedded data, minutes on a CPU
    python train_byol.py --data my_photos/ --epochs 100     # your own photos

The method is in byol/learner.py; this is the loop around it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from pathlib import Path

import torch

from byol import checkpoint
from byol.augment import RECIPES, changed, two_views
from byol.config import PretrainConfig, parse
from byol.cuda_graph import record
from byol.device import describe, keep_freed_memory, pick_amp, pick_device, set_deterministic
from byol.encoder import AVGPOOL, Encoder, check_taps
from byol.errors import Stopped, UserError, command, printable
from byol.interrupt import Interrupt
from byol.learner import BYOL
from byol.loader import batches, put_on_device
from byol.memory import free_bytes
from byol.metrics import progress, read_later, write_json
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.per_view import MOST_PIXELS
from byol.run_folder import LAST, check_same_settings, open_run_folder, remove_states
from byol.run_log import RunLog
from byol.schedules import lr_at, tau_at
from data import make_split, open_photos

MAY_DIFFER_ON_RESUME = {
    *(
        "device",
        "amp",
        "deterministic",
        "cuda_graph",
        "photos_in",
        "log_every",
        "save_every",
        "save_within",
    ),
    *("run_dir", "out", "resume", "overwrite"),
}


@command
def main(argv: list[str] | None = None) -> None:
    # ---- settings and data
    config, flags = parse(PretrainConfig, argv, "cats_vs_dogs.toml")
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    keep_freed_memory()
    amp = pick_amp(config.amp, device)
    taps = config.grids if config.losses == "multi" else {}
    view_size = config.view_size or config.image_size
    for size in {view_size, config.image_size}:
        check_taps(taps, config.arch, config.stem, size)
    weights = check_loss_weights(config, flags)
    run_dir, _lock = open_run_folder(  # locked until main ends
        config.run_dir, resume=config.resume, overwrite=config.overwrite
    )
    checkpoint.check_writable(config.out)
    if Path(config.out).exists() and not (config.resume or config.overwrite):
        raise UserError(
            f"--out: there is {config.out} already; give another name for this run's encoder, or "
            "--overwrite to replace it"
        )
    state = checkpoint.load_state(run_dir) if config.resume else None
    settings = dataclasses.asdict(config)
    if state:
        may_grow = {"epochs"} & flags  # a higher default or file does not lengthen a run unasked
        check_same_settings(state["config"], settings, MAY_DIFFER_ON_RESUME, may_grow, run_dir)

    photos = open_photos(config.data, config.stored_side)
    if state and state["data_fingerprint"] != photos.fingerprint:
        raise UserError(
            f"--resume: {run_dir} was started with other images than --data {photos.source} now "
            "has; put the old ones back, or start anew in another --run-dir"
        )
    split = make_split(photos, config.labels if photos.classes else 0, config.holdout,
                       config.split_seed)  # fmt: skip
    rows = split.unlabelled
    steps_per_epoch = check_batch(config, len(rows))
    total_steps = config.epochs * steps_per_epoch
    warmup_steps = round(min(config.warmup_epochs, config.epochs / 2) * steps_per_epoch)

    # ---- model
    torch.manual_seed(config.seed)
    encoder = Encoder(config.arch, config.stem)
    piece = config.batch_size // config.accumulate
    one_pass = device.type == "cpu" and piece * view_size**2 <= MOST_PIXELS
    model = BYOL(encoder, config.hidden_dim, config.projection_dim, one_pass, taps)
    model.to(device, memory_format=torch.channels_last)
    decay, peak_lr = config.decay, config.base_lr * config.batch_size / 256
    scaled = amp == torch.float16
    optimizer = build_optimizer(config.optimizer, parameter_groups(model), decay, scaled)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    recipe = changed(
        RECIPES[config.recipe],
        config.crop_min,
        config.jitter_strength,
        config.grayscale,
        config.solarize,
    )
    augment1, augment2 = two_views(recipe, view_size, config.mean, config.std, config.seed)
    on_device = config.photos_in == "device"
    if config.photos_in == "auto" and device.type == "cuda":
        on_device = 2 * photos.images.nbytes < free_bytes(device)
    images = put_on_device(photos.images, device) if on_device else photos.images

    loss_weights = torch.tensor(weights, device=device) / config.accumulate
    plain = functools.partial(model.backward, weights=loss_weights, amp=amp, scale=scaler.scale)
    recorded = None
    # a recording does not add to the gradients of other pieces
    if config.cuda_graph and device.type == "cuda" and config.accumulate == 1:
        recorded = record(model, piece, view_size, loss_weights, amp, scaler.scale)
    backward = recorded or plain

    # ---- where a stopped run goes on
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and scaled:  # empty where the run was not in fp16 until now
            scaler.load_state_dict(state["scaler"])
    else:  # every check is behind us: only now may --overwrite cost the earlier run
        remove_states(run_dir)
    first_step = state["step"] if state else 0
    write_json(run_dir / "config.json", settings)
    split.save(run_dir / "split.json")
    log = RunLog(run_dir, config, model.outputs, weights, steps_per_epoch, first_step, scaled)

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    encoder_size = sum(p.numel() for p in model.encoder.parameters())
    of_photos = f"; {images.nbytes / 2**30:.1f} GiB for the photos" if on_device else ""
    changes = "".join(
        f", {name.replace('_', ' ')} {settings[name]:g}"
        for name in ("crop_min", "jitter_strength", "grayscale", "solarize")
        if settings[name] != getattr(PretrainConfig, name)
    )
    print(
        f"data        {printable(photos.source)}: {len(rows):,} unlabelled images to learn from, "
        f"{len(split.labelled):,} labelled, {len(split.holdout):,} held out, "
        f"{len(split.test):,} in a test split, {len(photos.skipped):,} files skipped\n"
        f"model       {config.arch} ({config.stem} stem), {encoder_size / 1e6:.1f} M weights; "
        f"{trained / 1e6:.1f} M with the heads on {', '.join(model.outputs)}\n"
        f"device      {describe(device, amp)}{'; steps recorded' if recorded else ''}{of_photos}\n"
        f"views       {view_size} px, from {config.stored_side} px, recipe "
        f"{config.recipe}{changes}\n"
        f"schedule    {config.epochs} epochs x {steps_per_epoch} steps of {config.batch_size} "
        f"= {total_steps:,} steps, {warmup_steps:,} of warm-up\n"
        f"optimizer   {config.optimizer}, rate {config.base_lr:g} x {config.batch_size}/256 = "
        f"{peak_lr:g}, weight decay {decay:g}, tau {config.tau0:g} to 1\n"
        f"run folder  {printable(str(run_dir))}"
        + (f", going on at step {first_step:,}" if state else ""),
        flush=True,
    )

    if state and config.epochs > state["config"]["epochs"]:
        print(
            f"note        --epochs was {state['config']['epochs']} and is now {config.epochs}: "
            "from here on rate and tau follow the longer schedule, so the result is not that of a "
            f"run of {config.epochs} epochs from the start",
            flush=True,
        )

    def save_state(step: int, lr: float) -> None:
        if not checkpoint.all_finite(model):
            log.give_up("the weights are not finite", step, lr)
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "skipped": skipped,
            "step": step,
            "config": settings,
            "data_fingerprint": photos.fingerprint,
            # of the steps since the last line of the metrics
            "results": torch.stack(results) if results else [],
            "seconds": time.perf_counter() - since,
        }
        log.flush_to_disk()
        checkpoint.save_state(run_dir, content)

    # ---- the loop
    model.train()
    results, waiting = [], []
    one, skipped = torch.ones((), device=device), torch.zeros((), device=device)
    started = since = saved = time.perf_counter()
    if state:
        results = [pair.to(device) for pair in state.get("results", [])]
        skipped += state.get("skipped", 0)
        since -= state.get("seconds", 0)
    todo = range(first_step, total_steps)
    bar = progress(total_steps, "step", first_step)
    with Interrupt() as stop, log, bar:
        for step, chosen, stored in batches(
            images, rows, config.batch_size, config.seed, todo, device
        ):
            lr = lr_at(step, total_steps, warmup_steps, peak_lr)
            tau = tau_at(step, total_steps, config.tau0)
            set_lr(optimizer, lr)

            optimizer.zero_grad(set_to_none=True)
            for at in range(0, config.batch_size, piece):
                part, indices = stored[at : at + piece], chosen[at : at + piece]
                view1 = augment1(part, photos.sizes[indices], indices, step)  # (N, 3, S, S)
                view2 = augment2(part, photos.sizes[indices], indices, step)
                losses, spreads = backward(view1, view2)  # (P,): one for each output
                results.append(torch.stack([losses, spreads]))
            scale = scaler.scale(one)  # 1 without float16
            scaler.step(optimizer)
            scaler.update()
            if scaled:  # it lowers the scale where it skipped the step; not asked, not waited for
                skipped += scaler.scale(one) < scale
            model.update_target(tau)

            done = step + 1
            epoch_ends = done % steps_per_epoch == 0
            stopping = stop.asked
            unsaved = time.perf_counter() - saved  # seconds
            due = unsaved >= config.save_within or (epoch_ends and unsaved >= config.save_every)
            saving = due or stopping or done == total_steps
            bar.update()
            if done % config.log_every == 0 or epoch_ends:
                now = time.perf_counter()
                speed = len(results) * piece / (now - since)
                means = torch.stack(results).mean(0).flatten()  # P losses, then P spreads
                numbers = torch.cat([means, torch.stack([skipped, scaler.scale(one)])])
                waiting.append((done, lr, tau, speed, read_later(numbers)))
                results, since = [], now
            # a GPU's results are read when the next are due, so that it is not waited for
            while waiting and (len(waiting) > 1 or saving):
                log.add(bar, *waiting.pop(0))
            if saving:
                before = time.perf_counter()
                save_state(done, lr)
                saved = time.perf_counter()
                since += saved - before  # saving does not count as training
            if stopping and done < total_steps:
                how = "--resume in place of --overwrite" if config.overwrite else "--resume"
                raise Stopped(
                    f"saved at step {done:,} in {run_dir / LAST}; the same command with "
                    f"{how} goes on",
                    stop.code,
                )

        # ---- the hand-off, which a first Ctrl-C lets finish
        checkpoint.save(
            config.out,
            checkpoint.ENCODER,
            {
                "encoder": checkpoint.encoder_weights(model.encoder),
                "arch": config.arch,
                "stem": config.stem,
                "image_size": config.image_size,
                "mean": config.mean,
                "std": config.std,
                "config": settings,
                "step": total_steps,
                "data_fingerprint": photos.fingerprint,
            },
        )

    seconds = time.perf_counter() - started
    seen = (total_steps - first_step) * config.batch_size
    peak = ""
    if device.type == "cuda":
        peak = f", at most {torch.cuda.max_memory_reserved(device) / 2**30:.2f} GiB of its memory"
    overflowed = f", {int(skipped):,} steps skipped as float16 overflowed" if scaled else ""
    print(f"took {seconds / 60:.1f} minutes, {seen / seconds:.0f} images/s{peak}{overflowed}")
    out = printable(config.out)
    print(f"wrote {out}: now python train_classifier.py --init {out} --freeze")


def check_loss_weights(config: PretrainConfig, flags: set[str]) -> list[float]:
    """The weight of each loss. Raises `UserError` where there are not as many as losses."""
    if config.losses == "classic":
        for key in ("taps", "tap_grid", "loss_weights"):
            if key in flags:
                raise UserError(f"--{key.replace('_', '-')} is for --losses multi: add that")
        return [1.0]
    outputs = [AVGPOOL, *config.taps]
    if len(config.loss_weights) != len(outputs) or not any(config.loss_weights):
        raise UserError(
            f"--loss-weights {' '.join(f'{w:g}' for w in config.loss_weights)}: give one for each "
            f"of {', '.join(outputs)}, not all of them 0"
        )
    return config.loss_weights


def check_batch(config: PretrainConfig, images: int) -> int:
    """Steps per epoch, or a `UserError` where batch size, pieces and images do not fit."""
    if config.batch_size % config.accumulate:
        raise UserError(
            f"--accumulate {config.accumulate} does not divide --batch-size {config.batch_size}"
        )
    if config.batch_size // config.accumulate < 2:
        raise UserError(
            f"--accumulate {config.accumulate} leaves one image in a piece, and BatchNorm needs "
            "two: lower it"
        )
    if images < config.batch_size:
        raise UserError(
            f"--batch-size {config.batch_size} is larger than the {images:,} unlabelled images: "
            "lower it, or lower --labels or --holdout"
        )
    return images // config.batch_size


if __name__ == "__main__":
    sys.exit(main())
