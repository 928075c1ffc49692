"""LocalStack's side: an execution environment that is a process."""

import os
import queue
import time
from pathlib import Path

from localstack import config
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import LambdaRuntimeException, RuntimeExecutor

from .runtime_api import Event, Invocation, error_json
from .sandbox import Sandbox

LOGS = os.environ.get("SLUICE_FUNCTION_LOGS")  # a folder: one file for each function, beside CloudWatch Logs


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """What LocalStack loads for LAMBDA_RUNTIME_EXECUTOR=process."""

    name = "process"

    def load(self, *args, **kwargs):
        return ProcessExecutor


class ProcessExecutor(RuntimeExecutor):
    """LocalStack gives it one invocation at a time, from any thread, and `stop` at any time."""

    sandbox: Sandbox | None = None
    is_stopped = False
    untold_init_ms: float | None = None  # the first REPORT line after an init tells of it

    def start(self, env_vars: dict[str, str]) -> None:
        self.env = {name: str(value) for name, value in env_vars.items()}
        self._init()

    def _init(self) -> None:
        """Starts a process and waits until it asks for work. If that takes too long, LocalStack calls `stop`."""
        if self.sandbox:
            self.sandbox.stop()
        if self.is_stopped:
            raise LambdaRuntimeException("the execution environment has been stopped")
        began = time.perf_counter()
        try:
            self.sandbox = Sandbox(Path(self.function_version.config.code.get_unzipped_code_location()), self.env)
        except OSError as error:  # no bootstrap, not executable, or built for another machine
            raise StatusErrorException("Init failed", error_json("Runtime.InvalidEntrypoint", f"Error: {error}")) from error
        event = self.sandbox.api.events.get()
        if event.kind == "ready":
            self.untold_init_ms = (time.perf_counter() - began) * 1000
            return
        logs = self.sandbox.take_logs()
        self._keep(logs)
        body = event.body
        if event.kind == "exit":
            body = error_json("Runtime.ExitError", f"Error: Runtime exited without asking for work: {body.decode()}\n{logs}")
        raise StatusErrorException("Init failed", payload=body)

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        request_id, version = payload["invoke-id"], self.function_version
        if not self.sandbox.is_usable():
            self._init()
        limit_s, began = version.config.timeout, time.perf_counter()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + limit_s) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": payload["invoked-function-arn"],
            "Lambda-Runtime-Trace-Id": payload["trace-id"],
        }
        self.sandbox.api.invocations.put(Invocation(payload["payload"].encode(), headers))
        event = self._await_answer(request_id, began + limit_s)
        took_ms, memory_mb = (time.perf_counter() - began) * 1000, self.sandbox.max_memory_mb()

        body, note = event.body, ""
        if event.kind == "timeout":
            note = "\tStatus: timeout"
            body = error_json("Sandbox.Timedout", f"RequestId: {request_id} Error: Task timed out after {limit_s}.00 seconds")
        elif event.kind == "exit":
            note = "\tStatus: error\tError Type: Runtime.ExitError"
            body = error_json("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {body.decode()}")
        elif len(body) > config.LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES:
            event = Event("error")
            words = f"Response payload size ({len(body)}) exceeded maximum allowed payload size."
            body = error_json("Function.ResponseSizeTooLarge", words)
        if note:
            self.sandbox.stop()  # the next invocation starts a process anew, as on AWS

        init, self.untold_init_ms = self.untold_init_ms, None
        logs = (
            f"START RequestId: {request_id} Version: {version.id.qualifier}\n"
            f"{self.sandbox.take_logs()}END RequestId: {request_id}\n"
            f"REPORT RequestId: {request_id}\tDuration: {took_ms:.2f} ms\tBilled Duration: {int(took_ms) + 1} ms\t"
            f"Memory Size: {version.config.memory_size} MB\tMax Memory Used: {memory_mb} MB"
            + (f"\tInit Duration: {init:.2f} ms" if init else "") + note + "\n"
        )  # fmt: skip
        self._keep(logs)
        return InvocationResult(request_id, body, is_error=event.kind != "response", logs=logs)

    def _await_answer(self, request_id: str, until: float) -> Event:
        """The answer to this invocation (a late one to an earlier one is passed over), the process's end, or `timeout`."""
        while True:
            try:
                event = self.sandbox.api.events.get(timeout=max(0, until - time.perf_counter()))
            except queue.Empty:
                return Event("timeout")
            if event.kind == "exit" or (event.kind in ("response", "error") and event.request_id == request_id):
                return event

    def _keep(self, logs: str) -> None:
        if LOGS and logs:
            with open(f"{LOGS}/{self.function_version.id.function_name}.log", "a") as file:
                file.write(logs)

    def stop(self) -> None:
        self.is_stopped = True
        if self.sandbox:
            self.sandbox.stop()

    def get_logs(self) -> str:
        return self.sandbox.take_logs() if self.sandbox else ""

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"  # an address: no name to look up, and the SDKs use path-style S3 URLs

    def get_runtime_endpoint(self) -> str:
        return ""  # for the init binary of LocalStack's containers

    @classmethod
    def prepare_version(cls, function_version) -> None:
        if not (function_version.config.runtime or "").startswith("provided"):
            raise LambdaRuntimeException("only the provided.* runtimes can be run as processes")
        function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version) -> None:
        """The unzipped code goes with LocalStack's state folder."""
