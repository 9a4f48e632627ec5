"""What the vendor's page says of each endpoint: written down from the page, not read from the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aisolution_async import Charge

CHARGED, FREE = Charge.CHARGED, Charge.FREE


class Told(NamedTuple):
    """Of one endpoint: the heading of its section, what each status of its table costs, and the message of an OK."""

    section: str
    charges: Mapping[str, Charge]
    message: Any


CONTRACT: Mapping[str, Told] = {
    "facecompare": Told(
        section="Face Comparison",
        charges={"OK": CHARGED, "INVALID_REQUEST": FREE, "IMAGE_INVALID_SIZE": FREE, "RETRY_LATER": FREE},
        message={"similarity": 97.501, "result": "SAME PERSON"},
    ),
    "idholding": Told(
        section="Hand-held ID Card Comparison",
        charges={
            "OK": CHARGED,
            "INVALID_REQUEST": FREE,
            "IMAGE_INVALID_SIZE": FREE,
            "INVALID_FACE_NUM": FREE,
            "RETRY_LATER": FREE,
        },
        message={"similarity": 97.501, "result": "SAME PERSON"},
    ),
    "addface": Told(
        section="Face Search",
        charges={"OK": FREE, "FACE_DETECT_FAILED": FREE, "FAIL": FREE, "RETRY_LATER": FREE},
        message={"group_id": "LxiKPLIMGFpXzXas", "person_id": "c5r7jedkujdbnasarhn0", "person_count": 3},
    ),
    "searchface": Told(
        section="Face Search",
        charges={"OK": CHARGED, "FAIL": FREE, "RETRY_LATER": FREE, "FACE_DETECT_FAILED": FREE},
        message=[{"confidence": 100, "person_id": "c5r7jedkujdbnasarhn0"}],
    ),
    "delface": Told(
        section="Face Search",
        charges={"OK": FREE, "PERSON_ID_NOT_EXIST": FREE, "RETRY_LATER": FREE},
        message=None,
    ),
    "gliswadetail": Told(
        section="WhatsApp Detail Detection",
        charges={"OK": CHARGED, "FAIL": FREE, "INVALID_INPUT": FREE, "RETRY_LATER": FREE},
        message={
            "number": "+6284921089722",
            "whatsapp": "yes",
            "status_update": "20180825",
            "signature": "Saya suka global",
            "business_user": "no",
            "avatar": "yes",
        },
    ),
}
