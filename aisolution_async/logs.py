"""The log for who sets nothing up: AISOLUTION_LOG=debug or info writes the library's records to stderr."""

from __future__ import annotations

import logging
import os

VARIABLE = "AISOLUTION_LOG"

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}


def listen(logger: logging.Logger) -> None:
    """Do as the environment says. A value that says nothing is told in one line, and harms nothing."""
    logger.addHandler(logging.NullHandler())  # quiet until somebody listens
    said = os.environ.get(VARIABLE, "").strip().lower()
    if not said or any(handler.name == VARIABLE for handler in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.name = VARIABLE
    handler.setFormatter(
        logging.Formatter("[%(asctime)s - %(name)s:%(lineno)d - %(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    handler.addFilter(_is_ours_to_write)
    logger.addHandler(handler)
    if said in _LEVELS:
        logger.setLevel(_LEVELS[said])
    else:  # not what it says: it may be a secret that was put into the wrong variable
        logger.warning("the environment's %s is neither debug nor info: only warnings and errors are written", VARIABLE)


def _is_ours_to_write(record: logging.LogRecord) -> bool:
    """Whether no handler of the application's own writes it: a record is written once."""
    return all(handler.level > record.levelno for handler in logging.getLogger().handlers)
