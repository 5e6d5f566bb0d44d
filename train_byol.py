"""Pretrain an encoder with BYOL on unlabelled photos, and write it to byol.pt.

    python train_byol.py                                    # Cats-vs-Dogs at 150 px
    python train_byol.py --config configs/cartoons.toml     # embedded data, minutes on a CPU
    python train_byol.py --data my_photos/                  # your own photos
    python train_byol.py --resume                           # go on with a run that was stopped

The method is byol/method.py; this is the loop around it.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys

import torch

from byol.command_line import command_for_several, parse
from byol.config import PretrainConfig
from byol.encoder import Encoder, check_inner_blocks
from byol.errors import printable
from byol.evaluation.health import Health
from byol.files import write_json
from byol.hardware import distributed
from byol.hardware.batches import Batches
from byol.hardware.device import describe, set_up
from byol.hardware.distributed import is_first
from byol.hardware.step import Backward, LossScaler, prepare
from byol.method import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.progress import say, silent
from byol.run.checkpoint import load_encoder, save_encoder
from byol.run.follower import Follower, FollowersLog, facts
from byol.run.pretrain_log import PretrainLog
from byol.run.run import Run
from byol.run.start import read_fitting_start
from byol.views.augment import TwoViews
from data import make_split, open_photos


@command_for_several
def main(argv: list[str] | None = None) -> None:
    # ---- settings and device
    config, flags = parse(PretrainConfig, argv, __doc__)
    check_inner_blocks(config.trained_blocks, config.arch, config.stem, config.view_side)
    check_inner_blocks(config.trained_blocks, config.arch, config.stem, config.image_size)
    device, amp = set_up(config.device, config.amp, config.deterministic)
    start = read_fitting_start(config)  # the weights of --init; None is for random ones
    # its folder, locked; its last state with --resume
    run = Run.open(config, flags, start) if is_first() else Follower(config)

    # ---- photos
    photos = distributed.one_after_another(
        lambda: open_photos(**config.reading, progress=not silent())
    )
    run.check_same_photos(photos)
    labels = config.labels if photos.classes else 0
    split = make_split(photos, labels, config.holdout, config.split_seed)
    run.check_same_split(split)
    schedule = config.schedule(len(split.learned))  # rate, tau and order of the photos by step
    say(f"data        {split.describe(photos)}")
    distributed.join(device, facts(config, photos, split, amp))

    # ---- networks, optimizer, views
    torch.manual_seed(config.seed)
    encoder = load_encoder(start, config.init) if start else Encoder(config.arch, config.stem)
    model = BYOL(
        encoder, config.hidden_dim, config.projection_dim, config.trained_blocks, config.whitening
    )
    prepare(model, device)
    scaler = LossScaler(device, amp)
    groups = parameter_groups(model, encoder if start else None)
    optimizer = build_optimizer(config.optimizer, groups, config.decay, scaler.enabled)
    two_views = TwoViews(config.views, config.view_side, config.mean, config.std, config.seed)
    batches = Batches(photos, split.learned, schedule, config.photos_in, device, config.accumulate)
    backward = Backward(model, config, amp, scaler)  # forward and backward, by the fastest way
    health = Health(config, photos, split, schedule, device, amp)  # looks at the encoder at times
    log = FollowersLog()
    if is_first():
        log = PretrainLog(run.folder, config, model.outputs, schedule, scaler, device)
    where = describe(device, amp) + distributed.describe()
    say(describe_run(config, model, schedule, f"{where}, {backward}", batches))

    # ---- go on where a stopped run was, or begin
    first_step = run.start(schedule, log=log, model=model, optimizer=optimizer, scaler=scaler)
    if is_first():
        write_json(run.folder / "config.json", dataclasses.asdict(config))
        split.save(run.folder / "split.json")
        run.begin_about(photos, split, where)

    # ---- the loop
    model.train()
    with run, log:
        health.begin(log, encoder)
        for step, batch in batches.from_step(first_step):
            set_lr(optimizer, schedule.lr(step), schedule.encoder_scale(step))
            optimizer.zero_grad(set_to_none=True)
            for micro_batch in batch.split(config.accumulate):
                view1, view2 = two_views(micro_batch, step)  # (N, 3, S, S) each
                losses, spreads = backward(view1, view2)  # (P,) each, one for each output
                log.note(losses, spreads)
            of_step = log.results[-config.accumulate :]
            distributed.average_gradients(model, [*of_step, *model.statistics])
            scaler.step(optimizer)
            model.update_target(schedule.tau(step))
            log.after_step(step + 1)  # a line of metrics.jsonl, if one is due
            health.after_step(step + 1)  # a line on it, if one is due
            run.after_step(step + 1)  # a checkpoint, if one is due; Stopped after Ctrl-C

        if not is_first():
            return
        # a first Ctrl-C lets this finish
        out = run.free_out(config.out)
        about = photos.fingerprint, run.name, run.settings["weights"], photos.label_digest
        save_encoder(out, encoder, config, schedule.total_steps, *about)
    out = printable(shlex.quote(out))
    print(f"took {log.summary()}")
    if advice := health.advice.at_the_end():
        print(f"health: {advice}")
    print(f"wrote {out}: now python train_classifier.py --init {out} --freeze")


def describe_run(config: PretrainConfig, model: BYOL, schedule, device: str, batches) -> str:
    """Write the lines of the banner that follow from the settings."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    of_encoder = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    neutral = {"crop_min": None, "jitter_strength": 1.0, "grayscale": None, "solarize": None}
    changes = "".join(
        f", {key.replace('_', ' ')} {getattr(config, key):g}"
        for key, value in neutral.items()
        if getattr(config, key) != value
    )
    start = "" if config.init == "random" else f" from {printable(config.init)}"
    changes += ", photos in grey" if config.channels == "grey" else ""
    place = ", photos in its memory" if batches.on_gpu else ""
    whitened = f", targets whitened ({config.whitening:g})" if config.whitening else ""
    return (
        f"model       {config.arch} ({config.stem} stem){start}, {of_encoder:.1f} M weights; "
        f"{trained:.1f} M with the heads on {', '.join(model.outputs)}{whitened}\n"
        f"device      {device}{place}\n"
        f"views       {config.view_side} px, from {batches.photos.describe_shape()} px, recipe "
        f"{config.recipe}{changes}\n"
        f"schedule    {schedule}\n"
        f"optimizer   {config.optimizer}, rate {config.base_lr:g} x {config.batch_size}/256 = "
        f"{schedule.peak_lr:g}, weight decay {config.decay:g}, tau {config.tau0:g} to 1"
    )


if __name__ == "__main__":
    sys.exit(main())
