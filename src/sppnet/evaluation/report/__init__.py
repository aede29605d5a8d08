"""Reports as HTML pages, each one file.

- ``html``: ``Page`` and the blocks in its sections, filled in from ``templates``. Start here.
- ``charts``: drawings for a page, as SVG; ``axes`` has their scales, ticks and texts of numbers.
- ``sections``: the sections that several reports share, and pictures with what was found on them.
- ``classification``: the report of a classifier.
- ``galleries``: pages to look through: what a detector found, the labels of a data set.
- ``thresholds``: what the slider in the report of a detector moves; ``page.js`` moves it.
- ``detection_figures``: what the report of a detector shows, measured; ``detection`` writes it.

The reports themselves are functions of ``sppnet.evaluation``; this room offers what other pages are
built of.
"""

from sppnet.evaluation.report.axes import Scale, number_text, score_text, seconds_text, thin
from sppnet.evaluation.report.charts import (
    WIDTH,
    Series,
    bar_chart,
    confusion_chart,
    grouped_bar_chart,
    line_chart,
    stand_alone,
    svg_axes,
    svg_drawing,
    svg_element,
    svg_text,
)
from sppnet.evaluation.report.detection_figures import MEASURES
from sppnet.evaluation.report.galleries import ShownLabel, write_found_page, write_label_page
from sppnet.evaluation.report.html import (
    Page,
    Picture,
    Tile,
    column,
    details,
    figure,
    figures,
    heading,
    name_values,
    paragraph,
    pictures,
    table,
    tiles,
    whole_picture,
)
from sppnet.evaluation.report.sections import (
    add_origin_section,
    add_problem_section,
    add_time_section,
    counted,
    ranked_names,
    scene_legend,
    scene_pictures,
    seen_warnings,
)

__all__ = [
    "MEASURES",
    "WIDTH",
    "Page",
    "Picture",
    "Scale",
    "Series",
    "ShownLabel",
    "Tile",
    "add_origin_section",
    "add_problem_section",
    "add_time_section",
    "bar_chart",
    "column",
    "confusion_chart",
    "counted",
    "details",
    "figure",
    "figures",
    "grouped_bar_chart",
    "heading",
    "line_chart",
    "name_values",
    "number_text",
    "paragraph",
    "pictures",
    "ranked_names",
    "scene_legend",
    "scene_pictures",
    "score_text",
    "seconds_text",
    "seen_warnings",
    "stand_alone",
    "svg_axes",
    "svg_drawing",
    "svg_element",
    "svg_text",
    "table",
    "thin",
    "tiles",
    "whole_picture",
    "write_found_page",
    "write_label_page",
]
