"""What a compression leaves behind for the registry: plain frozen data, no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """What one pass did to one layer.

    ``bits`` counts what a weight occupies, its share of the scales included; ``bytes_before`` are those of the
    float32 weight in memory, twice what a bfloat16 checkpoint stores. ``relative_error`` is the Frobenius norm of the
    change over that of the weight; ``output_error`` likewise of the layer's outputs on rows of the calibration data,
    where there was any. ``zeros`` is the share of the weights that are zero afterwards. A layer has a record of every
    pass that changed its values, in their order.
    """

    name: str
    format: str
    bits: float
    bytes_before: int
    bytes_after: int
    relative_error: float
    output_error: float | None = None
    zeros: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecord:
    """The data a model was compressed with: ``samples`` pieces of ``length`` tokens, or images of length 1, drawn by
    ``seed``.
    """

    sha256: str  # of all tokens of the text, int64; of the file of images
    samples: int
    length: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductCost:
    """What one row times a weight (outputs, inputs) in a format took, weights read as a decode step reads them."""

    outputs: int
    inputs: int
    format: str
    nanoseconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRecord:
    """The time that formats were chosen by, as it was measured: no two measurements give the same.

    Shares are of the time that all products of a decode step take when every weight is int8.
    """

    allowed_share: float
    reached_share: float
    threads: int
    kernels: str
    costs: tuple[ProductCost, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRecord:
    """Why an artifact was chosen, and how it is to be served.

    Intervals are a value and its bounds, 95 %: ``loss_ratio`` on the half of the text that was searched on,
    ``confirmed`` on the other, ``ratio`` of the objective's figure to the parent's (bounds None: too few rounds).
    """

    objective: str
    max_loss: float
    limits: tuple[str, ...]
    reason: str
    loss_ratio: tuple[float, float, float]
    confirmed: tuple[float, float, float]
    ratio: tuple[float, float | None, float | None]
    figures: dict[str, float]
    parent_figures: dict[str, float]
    keys: str
    prefill_share: int
    threads: int | None
    num_tried: int
    seed: int
    data_sha256: str  # of the text
    max_running: int | None = None  # None: of a search that did not look at it
    lookup: bool = False  # drafts of what the text said before
    draft: str | None = None  # the model that writes drafts


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRecord:
    """What was measured of an artifact, as it is served, against its parent on the same tokens of one text.

    A figure is its value and the bounds of its 95 % interval: ``perplexity``, ``parent_perplexity``, ``loss_ratio``
    (perplexity over the parent's, minus 1), ``kl`` (nats per token), ``top1_agreement`` and ``flip_rate`` (shares).
    """

    figures: dict[str, tuple[float, float, float]]
    num_tokens: int
    context: int
    stride: int
    interval: str  # how the intervals are made
    data: str  # name of the file, without the path
    data_sha256: str  # of the text
