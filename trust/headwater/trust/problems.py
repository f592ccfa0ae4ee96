"""Law: what is not trusted is named by its reason and one sentence that says what to mend; it never says a secret."""

from typing import Literal

Why = Literal[
    "malformed",
    "expired",
    "not_yet_valid",
    "revoked",
    "other_authority",
    "wrong_name",
    "wrong_kind",
    "wrong_signature",
    "stale",
    "unsigned",
    "refused",
]


class Untrusted(ValueError):
    """A certificate, request, list or signed word that is not taken. `why` is for programs, the sentence for people."""

    def __init__(self, why: Why, sentence: str) -> None:
        super().__init__(sentence)
        self.why: Why = why
