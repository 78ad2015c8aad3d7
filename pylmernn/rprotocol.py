"""What R sends: a model, a fit and new rows, taken off a list of byte buffers in a fixed order."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pylmernn.engines.chains import Draws
from pylmernn.engines.estimates import Convergence, Estimates
from pylmernn.engines.multinomial import MultinomialEstimates
from pylmernn.engines.pirls import GeneralizedEstimates
from pylmernn.families import read_family
from pylmernn.fit.save import Parts, get_networks
from pylmernn.formula.design import Design, DesignError, NetTerm, NewRows, NewTerm, RandomTerm, make_design
from pylmernn.formula.varying import VaryingTerm
from pylmernn.mean.networks import Networks, with_modules

FloatArray = NDArray[np.float64]
CONVERGED = Convergence(converged=True, gradient=np.empty(0), n_evaluations=0, message="", seconds=0.0)


class Reader:
    """Takes arrays off a list of byte buffers, one after the other.

    Parameters
    ----------
    buffers : sequence of bytes-like
        Doubles, or int32 for codes, as R's ``writeBin`` writes them.
    modules : mapping of str to torch.nn.Module or callable, optional
        The user's own networks by name.
    """

    def __init__(self, buffers: Sequence[bytearray], modules: Mapping[str, Any] | None = None) -> None:
        self._buffers = iter(buffers)
        self.modules = dict(modules or {})

    def vector(self) -> FloatArray:
        """The next buffer as doubles; a view, not a copy."""
        return np.frombuffer(next(self._buffers), dtype=np.float64)

    def matrix(self, rows: int, columns: int) -> FloatArray:
        """A matrix column by column, as R stores it; in several buffers where one would be beyond R's 2 GB."""
        return self.array((rows, columns))

    def array(self, shape: tuple[int, ...]) -> FloatArray:
        """An array whose first dimension varies fastest, as R stores it."""
        parts: list[FloatArray] = []
        while sum(map(len, parts)) < math.prod(shape):
            parts.append(self.vector())
        flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
        return flat.reshape(shape, order="F")

    def integers(self) -> NDArray[np.int32]:
        """The next buffer as 32-bit integers."""
        return np.frombuffer(next(self._buffers), dtype=np.int32)


def read_design(meta: Mapping[str, Any], read: Reader) -> tuple[list[RandomTerm], Design]:
    """The terms as sent and the checked design.

    Parameters
    ----------
    meta : mapping
        ``n``, ``response``, ``fixed_names``, ``weights`` and ``offset`` (whether there are any) and ``terms``, each
        with ``group``, ``n_levels``, ``names``, ``covariance``, ``label``, ``constant`` (a plain intercept: no columns
        are sent), ``options`` and ``locations`` (how many coordinates a level has, 0 for none). ``generalized`` is
        true where there is no residual variance; ``classes`` has the names of the classes of a categorical response;
        ``sequences`` is true where rows are sequences of states.
        ``varying`` has the bars of networks, each with ``group``, ``n_levels``, ``net``, ``selector``, ``covariance``,
        ``label`` and ``rank``.
    read : Reader
        y, X, weights, offset, then codes, columns and locations of each term, then codes of each bar of a network, then
        the inputs of each network (``nets``).
    """
    n = meta["n"]
    y = read.vector()
    X = read.matrix(n, len(meta["fixed_names"]))
    weights = read.vector() if meta["weights"] else None
    offset = read.vector() if meta["offset"] else None
    terms = [_read_term(term, n, read) for term in meta["terms"]]
    varying = [_read_varying(term, read) for term in meta.get("varying") or []]
    nets = [_read_network(net, n, read) for net in meta.get("nets") or []]
    generalized, classes = bool(meta.get("generalized")), meta.get("classes") or ()
    names, response, sequences = meta["fixed_names"], meta["response"], bool(meta.get("sequences"))
    return terms, make_design(
        y, X, names, terms, weights, offset, response, nets, generalized, classes, varying, sequences
    )


def _read_network(meta: Mapping[str, Any], n: int, read: Reader) -> NetTerm:
    """One network; ``shapes`` says which of its columns are the elements of a matrix column, ``[[], [8]]``."""
    names = tuple(meta["names"])
    return NetTerm(
        label=meta["label"],
        name=meta["name"],
        inputs=read.matrix(n, len(names)),
        input_names=names,
        levels=tuple(meta["levels"]),
        options=dict(meta["options"]),
        shapes=tuple(tuple(shape) for shape in meta.get("shapes") or ()),
        module=read.modules.get(meta["name"]),
    )


def _read_term(meta: Mapping[str, Any], n: int, read: Reader) -> RandomTerm:
    q, k = meta["n_levels"], meta.get("locations") or 0
    return RandomTerm(
        group=meta["group"],
        codes=read.integers(),
        levels=np.arange(q),  # their names stay in R
        columns=np.ones((n, 1)) if meta["constant"] else read.matrix(n, len(meta["names"])),
        column_names=tuple(meta["names"]),
        covariance=meta["covariance"],
        label=meta["label"],
        locations=np.ascontiguousarray(read.matrix(q, k)) if k else None,
        options=dict(meta.get("options") or {}),
    )


def _read_varying(meta: Mapping[str, Any], read: Reader) -> VaryingTerm:
    return VaryingTerm(
        group=meta["group"],
        codes=read.integers(),
        levels=np.arange(meta["n_levels"]),  # their names stay in R
        net=meta["net"],
        selector=meta["selector"],
        covariance=meta["covariance"],
        label=meta["label"],
        rank=meta["rank"],
    )


def read_fit(meta: Mapping[str, Any], read: Reader) -> tuple[Design, Any]:
    """A fitted model as R keeps it: what variances, intervals and importances are computed from.

    Parameters
    ----------
    meta : mapping
        The keys of :func:`read_design`, ``method``, ``REML``, ``sigma`` and, where there are networks, ``networks``
        with the keys of :func:`read_networks`; for generalized models ``family`` and ``nAGQ``.
    read : Reader
        The buffers of the design, theta, beta, b of each term (q, d), phi for generalized models, then those of the
        networks. For multinomial models see :func:`_read_multinomial`.

    Returns
    -------
    Design, Estimates
        GeneralizedEstimates for generalized models, MultinomialEstimates for multinomial ones; terms in the order sent.
    """
    terms, design = read_design(meta, read)
    design = dataclasses.replace(design, random=tuple(terms))
    family = read_family(meta["family"]) if meta.get("family") else None
    if family is not None and family.name == "multinomial":
        return design, _read_multinomial(meta, read, design)
    theta, beta = read.vector(), read.matrix(design.p, 1)[:, 0]
    b = tuple(np.ascontiguousarray(read.matrix(term.width, term.n_levels).T) for term in design.random)
    phi = None if family is None else read.vector()
    estimates = Estimates(
        method=meta["method"],
        REML=meta["REML"],
        theta=theta,
        beta=beta,
        sigma=meta["sigma"],
        b=b,
        u=(),
        unscaled_vcov=np.empty(0),
        objective=np.nan,
        ldL2=np.nan,
        ldRX2=np.nan,
        pwrss=np.nan,
        wrss=np.nan,
        ussq=np.nan,
        singular=False,
        convergence=CONVERGED,
        networks=read_networks(meta["networks"], read) if meta.get("networks") else None,
    )
    if family is None or phi is None:
        return design, estimates
    plain = {field.name: getattr(estimates, field.name) for field in dataclasses.fields(estimates)}
    given = phi if family.absorbs_constant else float(phi[0])
    return design, GeneralizedEstimates(**plain, family=family, phi=given, nAGQ=meta["nAGQ"])


def _read_multinomial(meta: Mapping[str, Any], read: Reader, design: Design) -> MultinomialEstimates:
    """Buffers: beta (p, C), eta (n, C), then b, posterior variances (q, d, C), covariances (C, d, d) and errors of log
    variances (C, d) of each term in turn, then those of the networks.
    """
    C = len(design.classes)
    beta, eta = read.matrix(design.p, C), read.matrix(design.n, C)
    parts: list[list[FloatArray]] = [[], [], [], []]
    for term in design.random:
        q, d = term.n_levels, term.width
        for part, shape in zip(parts, [(q, d, C), (q, d, C), (C, d, d), (C, d)], strict=True):
            part.append(read.array(shape))
    b, variances, covariances, errors = (tuple(part) for part in parts)
    none = np.empty((0, 0, 0))
    return MultinomialEstimates(
        method=meta["method"],
        classes=design.classes,
        beta=beta,
        fixed_covariance=None,
        b=b,
        variances=variances,
        covariances=covariances,
        covariance_errors=errors,
        eta=eta,
        draws=Draws(
            b=(),
            variances=none,
            names=(),
            rhat=np.nan,
            ess=np.nan,
            divergences=0,
            accept=np.nan,
            sampler="",
            n_chains=0,
            n_draws=0,
        ),
        convergence=CONVERGED,
        networks=read_networks(meta["networks"], read) if meta.get("networks") else None,
    )


def read_networks(meta: Mapping[str, Any], read: Reader) -> Networks:
    """Fitted networks: ``state`` and ``shapes`` are texts that R only keeps, ``names`` those of the arrays sent.

    Raises
    ------
    DesignError
        Where a module of the user's was not sent along.
    """
    shapes = json.loads(meta["shapes"])
    arrays = {name: read.vector().astype(shapes[name][1]).reshape(shapes[name][0]) for name in meta["names"]}
    networks = with_modules(get_networks(Parts(arrays), json.loads(meta["state"])), read.modules)
    for spec in networks.specs:
        if spec.lacks_module:
            raise DesignError(
                f"the network '{spec.name}' is a module of your own ({spec.class_name}), which a fit read from a file "
                f"does not hold: put it back, fit <- with_nets(fit, list({spec.name} = module))."
            )
    return networks


def read_new_rows(meta: Mapping[str, Any], read: Reader, design: Design) -> NewRows:
    """``meta["rows"]`` new rows: X, then of each term codes (-1: unseen), columns and, where its levels are locations,
    coordinates, then the inputs of each network, ``meta["widths"]`` columns.
    """
    m = meta["rows"]
    X = read.matrix(m, design.p)
    random = tuple(_read_new_term(term, m, read) for term in design.random)
    nets = tuple(read.matrix(m, width) for width in meta.get("widths") or [])
    return NewRows(X=X, offset=np.zeros(m), random=random, nets=nets)


def _read_new_term(term: RandomTerm, m: int, read: Reader) -> NewTerm:
    codes, columns = read.integers(), read.matrix(m, term.width)
    places = None if term.locations is None else np.ascontiguousarray(read.matrix(m, term.locations.shape[1]))
    return NewTerm(codes=codes, columns=columns, locations=places)
