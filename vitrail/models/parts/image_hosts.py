"""Every backbone of images that another network may hold whole, as one type."""

from __future__ import annotations

from vitrail.models import (
    beit,
    cait,
    cct,
    deepvit,
    deit,
    efficientnet,
    flexivit,
    mlp_mixer,
    mobilenet_v2,
    mvit,
    pnasnet,
    t2t_vit,
    tnt,
    vit,
    vit_hybrid,
    xcit,
)
from vitrail.models.parts.pyramid_hosts import Pyramids

ImageHosts = (
    Pyramids
    | beit.Config
    | cait.Config
    | cct.Config
    | deepvit.Config
    | deit.Config
    | efficientnet.Config
    | flexivit.Config
    | mlp_mixer.Config
    | mobilenet_v2.Config
    | mvit.Config
    | pnasnet.Config
    | t2t_vit.Config
    | tnt.Config
    | vit.Config
    | vit_hybrid.Config
    | xcit.Config
)
