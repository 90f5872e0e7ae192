"""What can be trained, by the name that gan.family takes and that files hold."""

from smartfast.families.base import Family
from smartfast.families.stylegan2.family import StyleGan2

FAMILIES: dict[str, type[Family]] = {
    "stylegan2": StyleGan2,
}
