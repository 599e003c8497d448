"""GET /v1/models and /v1/models/{model}."""

from burnish.service.front import Front, FrontOf
from burnish.service.openai.shapes import ModelList, ModelShape


async def list_models(front: FrontOf) -> ModelList:
    """The served models."""
    return ModelList(data=[_shape(front)])


async def retrieve_model(model: str, front: FrontOf) -> ModelShape:
    """One served model."""
    front.check_model(model)
    return _shape(front)


def _shape(front: Front) -> ModelShape:
    card = front.card
    return ModelShape(id=card.name, created=card.created, max_model_len=card.max_request_tokens, weights=card.weights)
