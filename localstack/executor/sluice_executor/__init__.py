"""Runs LocalStack's Lambda functions as child processes: no Docker, no image, no download.

It serves the `provided.*` runtimes: a zip with an executable `bootstrap` that speaks the Lambda Runtime API. All else
is LocalStack's own: control plane, asynchronous events, event source mappings, concurrency (one execution environment
for each invocation at a time) and CloudWatch Logs.

Left out on purpose: memory limits, isolation, layers, extensions. The architecture in the template is not looked at; the
binary has to be one that this machine runs.
"""
