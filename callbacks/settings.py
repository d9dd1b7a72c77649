"""The settings of a run as flat keys, and which of them say what it computes. Needs no heavy import."""

from typing import Any

# Settings that say how a run is carried out and not what it computes: they may change when a run goes on.
EXECUTION_KEYS = (
    "config", "run_dir", "ckpt_path", "weights_only",
    "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.logger",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.log_every_n_steps", "trainer.profiler",
    "trainer.fast_dev_run", "data.init_args.num_workers",
    "synthesize.captioner.init_args.download", "synthesize.generator.init_args.download",
    "synthesize.captioner.init_args.batch_size", "synthesize.generator.init_args.batch_size",
    "synthesize.gate.init_args.judge.init_args.batch_size", "synthesize.gate.init_args.judge.init_args.download",
    "synthesize.strip", "synthesize.explain", "report", "emissions", "dashboard",
)  # fmt: skip


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys, without the EXECUTION_KEYS."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in EXECUTION_KEYS:
            continue
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
