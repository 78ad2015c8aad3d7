"""R from Python: fit with lme4 through rpy2, compare, convert data frames both ways, hand a fit to R.

Needs R with lme4, and rpy2; R starts at the first call, not before.
"""

from pylmernn.bridge import lme4
from pylmernn.bridge.compare import compare
from pylmernn.bridge.from_r import from_r
from pylmernn.bridge.lme4 import Lme4Fit, as_lme4, lmer
from pylmernn.bridge.session import BridgeError, session
from pylmernn.bridge.to_r import to_r

__all__ = ["BridgeError", "Lme4Fit", "as_lme4", "compare", "from_r", "lme4", "lmer", "session", "to_r"]
