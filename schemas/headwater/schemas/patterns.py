"""Law: a text that must have a form has its pattern and its words side by side: nobody is told a regular expression."""

import re
from typing import Final

from headwater.schemas.errors import ConfigError

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
PART: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
ENTRY_POINT: Final = r"^[\w.]+:[\w.]+$"
HOST: Final = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?$"
HTTP_ADDRESS: Final = r"^https?://[^\s@]+$"
HOURS: Final = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"
TOPIC: Final = r"^[^+#\x00]+$"
TOPIC_PREFIX: Final = r"^[^#+]{1,128}$"
JSON_PATH: Final = r"^\$(\.[^.\[\]]+|\[\d{1,6}\])*$"
INITIAL: Final = r"^(random|run:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}|.+\.npz)$"
SHA256: Final = r"^[0-9a-f]{64}$"
VERSION: Final = r"^[0-9][A-Za-z0-9.+!_-]{0,63}$"
PLAIN: Final = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+$"
STORED: Final = r"^[^\x00]{1,1024}$"

IN_WORDS: Final = {
    NAME: "use 1 to 64 letters, digits, '_', '.' or '-', the first of them a letter or a digit",
    PART: "use 1 to 64 letters, digits, '_' or '-', the first of them a letter or a digit",
    ENTRY_POINT: "give package.module:function",
    HOST: "give a host's name alone, of letters, digits, '-', '_' and '.'",
    HTTP_ADDRESS: "give an address without a user, as http://cloud.example:8080",
    HOURS: "give two times of a day of 24 hours, as 22:00-06:00",
    TOPIC: "give one topic, without the wildcards + and #",
    TOPIC_PREFIX: "give what topics begin with, in 1 to 128 characters without the wildcards + and #",
    JSON_PATH: "give $ for a whole payload, or where in it the value lies, as $.sensors[0].value",
    INITIAL: "give random, run:RUN for the last model of that run, or a file that ends in .npz",
    SHA256: "give 64 hexadecimal digits, in small letters",
    VERSION: "use 1 to 64 letters, digits, '.', '+', '!', '_' or '-', the first of them a digit",
    PLAIN: "give some text, and leave control characters out",
    STORED: "give a name as it was told, in 1 to 1024 characters",
}
"""What a pattern means, for whoever did not meet it."""

MAX_SHOWN_LENGTH: Final = 100
"""Of a text that has not its form."""


def misfit(field: str, value: str, pattern: str = NAME) -> str:
    """Why a text has not this form, with the field, the value and the mend; "" where it has."""
    return "" if re.fullmatch(pattern, value) else f"{field}: {value!r:.{MAX_SHOWN_LENGTH}}: {IN_WORDS[pattern]}"


def check_form(field: str, value: str, pattern: str = NAME) -> None:
    """Raises ConfigError where a text has not this form."""
    problem = misfit(field, value, pattern)
    if problem:
        raise ConfigError(problem)
