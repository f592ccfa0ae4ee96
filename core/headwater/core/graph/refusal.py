"""Law: what cannot be trained is refused by operator, attribute and node name, with the nearest supported way."""

from headwater.schemas.errors import ModelError


class UnsupportedModel(ModelError):
    """The model's author can mend it: the sentence says where and how."""
