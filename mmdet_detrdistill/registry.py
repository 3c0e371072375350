"""The scope `mmdet_detrdistill`, so that configs may say `_base_ = 'mmdet_detrdistill::...'`.

MMEngine looks for a package's configs when the package is in its table of projects, and builds
what stands in them in the package's own registries. Ours are empty children of MMDetection's: what
a name means is decided there. In effect once this package is imported, before a config is read.
"""

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

SCOPE = 'mmdet_detrdistill'

MODULE2PACKAGE.setdefault(SCOPE, SCOPE)
for _parent in list(vars(mmdet.registry).values()):
    if isinstance(_parent, Registry) and SCOPE not in _parent.children:
        Registry(_parent.name, parent=_parent, scope=SCOPE)
