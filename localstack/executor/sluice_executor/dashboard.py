"""Teaches LocalStack's CloudFormation the dashboards of CloudWatch, which it serves but does not make."""

from localstack.services.cloudformation.provider_utils import generate_default_name
from localstack.services.cloudformation.resource_provider import (
    CloudFormationResourceProviderPlugin,
    OperationStatus,
    ProgressEvent,
    ResourceProvider,
)


class Dashboard(ResourceProvider):
    """A template without a name gets one."""

    TYPE = "AWS::CloudWatch::Dashboard"
    SCHEMA = {
        "typeName": TYPE,
        "properties": {"DashboardName": {"type": "string"}, "DashboardBody": {"type": "string"}},
        "required": ["DashboardBody"],
        "createOnlyProperties": ["/properties/DashboardName"],
        "primaryIdentifier": ["/properties/DashboardName"],
        "handlers": {"create": {}, "update": {}, "delete": {}},
    }

    def create(self, request):
        model = request.desired_state
        model["DashboardName"] = model.get("DashboardName") or generate_default_name(request.stack_name, request.logical_resource_id)
        return self._put(request, model)

    def update(self, request):
        return self._put(request, request.previous_state | request.desired_state)

    def delete(self, request):
        request.aws_client_factory.cloudwatch.delete_dashboards(DashboardNames=[request.desired_state["DashboardName"]])
        return ProgressEvent(OperationStatus.SUCCESS, resource_model=request.desired_state)

    @staticmethod
    def _put(request, model):
        request.aws_client_factory.cloudwatch.put_dashboard(DashboardName=model["DashboardName"], DashboardBody=model["DashboardBody"])
        return ProgressEvent(OperationStatus.SUCCESS, resource_model=model)


class DashboardPlugin(CloudFormationResourceProviderPlugin):
    """What LocalStack loads for the type."""

    name = Dashboard.TYPE

    def load(self):
        self.factory = Dashboard
