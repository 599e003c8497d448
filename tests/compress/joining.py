"""Model, record and manifest joined to an artifact, as the command line does it."""

from collections.abc import Sequence
from pathlib import Path

from burnish.core.records import LayerRecord
from burnish.models.checkpoint import Loaded, load_decoder, save_checkpoint
from burnish.models.probe import golden_logits
from burnish.registry.artifact import describe, new_folder, write_manifest
from burnish.registry.golden import golden_prompts, make_golden


def write_artifact(loaded: Loaded, parent: Path, out: Path, *, recipe: str, records: Sequence[LayerRecord]) -> None:
    """The compressed model as an artifact; its golden outputs are those of the files, not of the memory."""
    with new_folder(out) as folder:
        save_checkpoint(loaded.decoder, folder, family=loaded.family, raw_config=loaded.raw_config)
        written = load_decoder(folder)
        prompts = golden_prompts(written.decoder.config.vocab_size, written.decoder.config.max_positions)
        golden = make_golden(prompts, golden_logits(written.decoder, prompts))
        manifest = describe(
            folder, parent=parent, recipe=recipe, weights=written.weights, records=records, golden=golden
        )
        write_manifest(folder, manifest)
