"""Extraction of a policy for each of several tasks from one pretrained world model (PWM section 4.2)."""

from sb3_pwm.extract.policy import ExtractionConfig, extract_policy
from sb3_pwm.extract.report import make_report
from sb3_pwm.extract.results import plot, read_results, summarize, table

__all__ = ["ExtractionConfig", "extract_policy", "make_report", "plot", "read_results", "summarize", "table"]
