"""The negative partial log-likelihood of Cox's proportional hazards, with Efron's rule for ties.

Source: Cox, "Regression models and life-tables", JRSS B 1972; Efron, "The efficiency of Cox's
    likelihood function for censored data", JASA 1977.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cox_loss(
    risk: Float[Tensor, " n"], time: Float[Tensor, " n"], event: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean negative partial log-likelihood over the events.

    Without an event, the likelihood says nothing about the risks: the loss is 0, and so is its
    gradient.

    Args:
        risk: log-hazard of each slide, up to a constant.
        time: time to the event or to the end of observation.
        event: whether the event was observed.
    """
    if not event.any():
        return risk.sum() * 0 + 0.0  # never -0, which would be printed
    order = time.argsort(descending=True, stable=True)
    risk, time, event = risk.double()[order], time[order], event[order]
    at_risk = torch.logcumsumexp(risk, dim=0)  # log of the sum of hazards of all who live longer
    total = risk[event].sum()
    for moment in sorted(set(time[event].tolist())):
        last = int((time >= moment).sum()) - 1  # everybody with this time or a later one
        dying = risk[event & (time == moment)]
        # Of d tied deaths, the l-th finds a share l/d of the others gone (Efron).
        gone = torch.arange(len(dying)).to(risk) / len(dying)
        share = (dying.logsumexp(dim=0) - at_risk[last]).exp()
        total = total - (at_risk[last] + torch.log1p(-gone * share)).sum()
    return -total / event.sum() + 0.0
