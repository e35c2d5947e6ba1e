"""What the server of tests.support.crashing imports once for all its forks; nothing here starts a thread."""

import gan.evaluation.similarity
import gan.training.loop  # noqa: F401
