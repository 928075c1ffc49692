"""Tells LocalStack which CloudFormation resources it can make: those that are installed with it.

With CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES=0 it looks each resource of a template up in a catalog that it downloads from
its maker, and without that download takes none for supported. This one asks nobody.
"""

from localstack.utils.catalog.catalog import AwsCatalogRuntimePlugin
from localstack.utils.catalog.common import CloudFormationResourcesSupportAtRuntime as Support


class InstalledCatalog(AwsCatalogRuntimePlugin):
    """Of the names that LocalStack looks for, the first is the one of a plugin that others provide."""

    name = "aws-catalog-remote-state-with-license"

    def get_cloudformation_resource_status(self, resource_name, service_name, is_pro_resource=False):
        installed = self._get_cfn_resources_available_at_runtime()
        return Support.AVAILABLE if resource_name in installed else Support.NOT_IMPLEMENTED
