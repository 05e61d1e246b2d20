"""Who writes traces: templates (embedded, pure) or a model behind an OpenAI-compatible endpoint."""

from erpo_ray.teachers.endpoint import OpenAITeacher
from erpo_ray.teachers.negatives import negatives
from erpo_ray.teachers.template import TemplateTeacher

__all__ = ["OpenAITeacher", "TemplateTeacher", "negatives"]
