"""Who may invoke the admin function, by template.yaml. `python -B infra/test_admin.py`"""

import unittest

import template

RESOURCES = template.load()["Resources"]
ARN = {"Fn::GetAtt": ["AdminFunction", "Arn"]}


def listed(value: object) -> list:
    """IAM writes a list of one without the list."""
    return value if isinstance(value, list) else [value]


class Invocations(unittest.TestCase):
    def test_nobody_is_allowed_to_invoke_it_past_its_url(self):
        # What the function believes of a caller is in the event, which whoever invokes it directly writes.
        for name, resource in RESOURCES.items():
            properties = resource.get("Properties", {})
            if resource["Type"] == "AWS::Lambda::Permission" and properties["FunctionName"] == {"Ref": "AdminFunction"}:
                is_url = properties["Action"] == "lambda:InvokeFunctionUrl"
                self.assertTrue(is_url or properties.get("InvokedViaFunctionUrl") is True, name)
            policies = [properties.get("PolicyDocument"), *(it for it in properties.get("Policies", []) if isinstance(it, dict))]
            for statement in (statement for policy in policies if policy and "Statement" in policy for statement in policy["Statement"]):
                if statement["Effect"] == "Allow" and "lambda:InvokeFunction" in listed(statement["Action"]):
                    self.assertEqual(statement.get("Condition"), {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}, name)

    def test_whoever_signs_is_denied_to_invoke_it_past_its_url_whatever_else_allows_it(self):
        policy = RESOURCES["AdminCallers"]
        self.assertEqual(policy["Condition"], "HasSigners")
        denied = [it for it in policy["Properties"]["PolicyDocument"]["Statement"] if it["Effect"] == "Deny"]
        self.assertEqual(len(denied), 1)
        self.assertIn("lambda:InvokeFunction", denied[0]["Action"])
        self.assertIn(ARN, denied[0]["Resource"])
        # A direct invocation has no such key: `Bool` alone would not be true of it.
        self.assertEqual(denied[0]["Condition"], {"BoolIfExists": {"lambda:InvokedViaFunctionUrl": "false"}})

    def test_a_new_account_reserves_nothing_and_a_number_is_reserved(self):
        parameter = template.load()["Parameters"]["AdminConcurrency"]
        self.assertEqual(parameter["Default"], "")
        reserved = RESOURCES["AdminFunction"]["Properties"]["ReservedConcurrentExecutions"]
        self.assertEqual(reserved, {"Fn::If": ["HasAdminConcurrency", {"Ref": "AdminConcurrency"}, {"Ref": "AWS::NoValue"}]})


if __name__ == "__main__":
    unittest.main()
