"""From fits to the verdict: the quiver, its uncertainty, tables, figures, the study's results."""

from probejax.analysis.head_to_head import head_to_head as head_to_head
from probejax.analysis.quiver import choices as choices
from probejax.analysis.quiver import quiver as quiver
from probejax.analysis.tables import results_table as results_table
from probejax.analysis.tables import summary as summary
from probejax.analysis.tables import write_tables as write_tables
from probejax.analysis.ties import TIE_RULES as TIE_RULES
