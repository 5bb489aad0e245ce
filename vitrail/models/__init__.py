"""The catalog: a file of this package that has `VARIANTS` is a family, and that is all. A network
of no images has a Config, NAMES and MODEL only: `create` and `load` know it by its Config. One that
answers for every pixel has DENSE in place of VARIANTS, one of time series SERIES, one of lidar
scans SCANS, one of clips, sounds and sentences TRIPLES, one that looks for what it is asked
QUERIED, whose names they know as well.

catalog()                   every published variant by name
dense()                     every published network of maps by name
series()                    every published network of time series by name
queried()                   every published network that finds what it is asked for by name
scans()                     every published network of lidar scans by name
triples()                   every published network of clips, sounds and sentences by name
create(name, **changes)     a model with random weights
load(name, file)            a model with the weights of a file, whatever names it uses
identify(file)              which variant a file is, and whose names it uses
"""

from vitrail.models.trunk.backbone import Backbone, Variant
from vitrail.models.trunk.catalog import (
    catalog,
    config_from_json,
    config_in,
    config_json,
    config_name,
    create,
    dense,
    families,
    family_of,
    module_of,
    named,
    networks,
    queried,
    resolve,
    scans,
    series,
    small_configs,
    triples,
)
from vitrail.models.trunk.identify import Identity, identify, identify_state
from vitrail.models.trunk.loading import load

__all__ = [
    "Backbone",
    "Identity",
    "Variant",
    "catalog",
    "config_from_json",
    "config_in",
    "config_json",
    "config_name",
    "create",
    "dense",
    "families",
    "family_of",
    "identify",
    "identify_state",
    "load",
    "module_of",
    "named",
    "networks",
    "queried",
    "resolve",
    "scans",
    "series",
    "small_configs",
    "triples",
]
