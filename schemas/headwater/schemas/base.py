"""Law: inside Headwater data are typed and frozen; what does not fit is refused with its name."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from headwater.schemas import limits, patterns


class Frozen(BaseModel):
    """Immutable, closed to unknown fields, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Sparse(Frozen):
    """All of whose fields have defaults: what is at its default is not written."""

    @model_serializer(mode="wrap")
    def _what_differs(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        written: dict[str, Any] = write(self)
        return {
            name: value
            for name, value in written.items()
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }


def added_later(default: Any) -> Any:
    """Marks a field that a message did not always have: at its default it is not sent, so that older bytes stay the
    one encoding of their message."""
    return Field(exclude_if=lambda value: bool(value == default))


NodeId = Annotated[str, Field(pattern=patterns.NAME)]
"""One level of a topic: no slash, no wildcard, no space."""

RunId = Annotated[str, Field(pattern=patterns.NAME)]
EntryPoint = Annotated[str, Field(pattern=patterns.ENTRY_POINT)]
"""A function of an owner's, `package.module:function`."""

HostName = Annotated[str, Field(pattern=patterns.HOST)]

Version = Annotated[str, Field(pattern=patterns.VERSION)]
"""Of this software; it names a folder too, and none that means something else."""

Name = Annotated[str, Field(min_length=1, max_length=limits.MAX_NAME_LENGTH)]
Text = Annotated[str, Field(max_length=limits.MAX_TEXT_LENGTH)]
Count = Annotated[int, Field(ge=0, le=limits.MAX_COUNT)]
Weight = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Fraction = Annotated[FiniteFloat, Field(gt=0, le=1)]
Sha256 = Annotated[bytes, Field(min_length=32, max_length=32)]
HexSha256 = Annotated[str, Field(pattern=patterns.SHA256)]
"""The same in text, as people compare it."""

Task = Literal["train", "evaluate", "statistics"]
Split = Literal["train", "test", "personal", "local"]
"""Of the training and of the test part; and on the test part, of a device's personal model and of one trained alone."""
Role = Literal["cloud", "gateway", "device"]
Dtype = Literal["float32", "float64", "int32", "int64"]
Dimension = Annotated[int, Field(ge=0, le=2**31 - 1)]
Shape = Annotated[tuple[Dimension, ...], Field(max_length=limits.MAX_RANK)]
