"""What recipes would gain, predicted from single products before any of them is made."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from burnish.compress.passes.shrink import Shrink
from burnish.compress.recipes import find_recipe
from burnish.measure.diagnose.predict import Storage
from burnish.measure.diagnose.scene import Scene
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat
from burnish.optimize.candidates import Candidate


def foreseen(scene: Scene | None, candidates: Sequence[Candidate]) -> Mapping[str, float]:
    """Seconds of a situation with each recipe's storage, over the model's own; of those whose storage is known.

    Without a scene (there are no native kernels) nothing is.
    """
    if scene is None:
        return {}
    known = {one.recipe: _storages(one.recipe) for one in candidates if one.recipe is not None and one.text is None}
    seconds = {storage: scene.seconds_stored(storage) for found in known.values() for storage in found}
    own = scene.observed.seconds
    return {name: fmean(seconds[storage] for storage in found) / own for name, found in known.items() if found}


def _storages(recipe: str) -> list[Storage]:
    """The first format that a recipe rounds to; of a mixture the narrowest and the widest."""
    found = find_recipe(recipe)
    formats = [one for one in found.formats if isinstance(one, IntegerFormat) and not isinstance(one, SparseFormat)]
    if not formats or any(isinstance(step, Shrink) for step in found.passes):
        return []
    chosen = [formats[0], formats[-1]] if found.budget is not None else formats[:1]
    return [Storage(one.kind, one.group_size or 0, one.asymmetric) for one in chosen]
