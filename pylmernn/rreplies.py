"""What R receives: a JSON text and raw bytes, or one sentence where something went wrong."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.api import scales_differ
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.fit.multinomial import KNOWN as CLASSES_KNOWN
from pylmernn.fit.networks import KNOWN, network_text, short_network_text
from pylmernn.fit.save import Parts, put_networks
from pylmernn.formula.design import Design, DesignError, RandomTerm
from pylmernn.mean.networks import Networks, size_messages
from pylmernn.rprotocol import Reader

if TYPE_CHECKING:
    from pylmernn.engines.chains import Draws

FloatArray = NDArray[np.float64]
Reply = tuple[dict[str, Any], dict[str, FloatArray]]
Half = Callable[[dict[str, Any], Reader], Reply]


def answer(half: Half) -> Callable[..., list[Any]]:
    """Wrap a function on decoded arrays as one that R can call with text and bytes."""

    @functools.wraps(half)
    def call(meta: str, buffers: Sequence[bytearray], modules: Mapping[str, Any] | None = None) -> list[Any]:
        try:
            header, arrays = half(json.loads(meta), Reader(buffers, modules))
        except DesignError as error:
            return [json.dumps({"error": str(error)})]
        except MemoryError as error:
            return [json.dumps({"error": f"not enough memory for this model: {error}"})]
        except ValueError as error:
            return [json.dumps({"error": _sentence(str(error))})]
        except ImportError as error:
            return [json.dumps({"error": _sentence(_missing_package(error))})]
        except Exception as error:  # R must see one sentence whatever went wrong
            return [json.dumps({"error": _sentence(f"internal error in pylmernn: {type(error).__name__}: {error}")})]
        header["arrays"] = list(arrays)
        bodies = [bytearray(np.ascontiguousarray(values, dtype=np.float64).tobytes()) for values in arrays.values()]
        return [json.dumps(header), *bodies]

    return call


def _missing_package(error: ImportError) -> str:
    call = f'install_pylmernn(packages = "{error.name}")' if error.name else "install_pylmernn()"
    return f"{error}: {call} can add that package."


def _sentence(text: str) -> str:
    return " ".join(text.split())


def send_estimates(terms: Sequence[RandomTerm], design: Design, estimates: Estimates) -> Reply:
    """What fits of one linear predictor reply: numbers, and arrays term by term."""
    header, arrays = send_search(terms, design, estimates.method, estimates.convergence)
    header |= {
        "sigma": estimates.sigma,
        "objective": estimates.objective,
        "objective_error": estimates.objective_error,
        "ldL2": estimates.ldL2,
        "ldRX2": estimates.ldRX2,
        "pwrss": estimates.pwrss,
        "wrss": estimates.wrss,
        "ussq": estimates.ussq,
        "singular": estimates.singular,
    }
    header = {name: _or_null(value) if isinstance(value, float) else value for name, value in header.items()}
    arrays |= {"theta": estimates.theta, "beta": estimates.beta, "unscaled_vcov": estimates.unscaled_vcov}
    arrays |= {f"b{k}": b for k, b in enumerate(estimates.b)}
    arrays |= {f"u{k}": u for k, u in enumerate(estimates.u)}
    return header, arrays


def send_search(terms: Sequence[RandomTerm], design: Design, method: str, convergence: Convergence) -> Reply:
    """What every fit replies: the order of the terms, the dropped columns, and how the search ended."""
    header = {
        "scales_differ": scales_differ(design),
        "method": method,
        "order": [next(i for i, term in enumerate(terms) if term is chosen) for chosen in design.random],
        "dropped_at": list(design.dropped_at),
        "convergence": {
            "converged": convergence.converged,
            "n_evaluations": convergence.n_evaluations,
            "message": convergence.message,
            "seconds": convergence.seconds,
        },
    }
    return header, {"gradient": convergence.gradient}


def send_draws(draws: Draws) -> Reply:
    """How effects were sampled, and the variances that were drawn (chains, draws, m); effects stay in Python."""
    header = {
        "sampler": draws.sampler,
        "n_chains": draws.n_chains,
        "n_draws": draws.n_draws,
        "rhat": _or_null(draws.rhat),
        "ess": _or_null(draws.ess),
        "divergences": draws.divergences,
        "accept": _or_null(draws.accept),
        "names": list(draws.names),
    }
    return header, {"draws": draws.variances}


def known_text(networks: Networks) -> str:
    """What the summary says of numbers beside networks; a multinomial model has no AIC."""
    return CLASSES_KNOWN if networks.specs[0].outputs > 1 else KNOWN


def send_networks(networks: Networks, design: Design) -> Reply:
    """What R keeps of networks: texts that only Python reads, lines and history for people, arrays."""
    parts = Parts()
    state = put_networks(parts, networks)
    shapes = {name: [list(value.shape), str(value.dtype)] for name, value in parts.arrays.items()}
    header = {
        "state": json.dumps(state),
        "shapes": json.dumps(shapes),
        "lines": network_text(networks, design, known=known_text(networks)),
        "short_lines": short_network_text(networks),
        "history": {name: [_or_null(value) for value in values] for name, values in networks.history.items()},
        "messages": list(size_messages(networks)),
        "criterion": networks.criterion,
        "outputs": networks.specs[0].outputs,
        "best_epoch": networks.best_epoch,
        "out_of_fold": networks.out_of_fold,
    }
    unseen = np.zeros(design.n)
    if networks.learned is not None:
        unseen[~networks.learned.any(axis=0)] = 1.0
    return header, {**parts.arrays, "held_out": unseen}


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value  # JSON has no NaN; null becomes NA in R
