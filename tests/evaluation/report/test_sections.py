"""Sections that reports share."""

from html_checks import check_page
from sppnet.errors import Problem
from sppnet.evaluation.report.html import Page
from sppnet.evaluation.report.sections import add_problem_section


def test_long_lists_of_problems_are_cut_and_say_so():
    problems = [Problem(f"{i}.xml", "bad", "E_BOX") for i in range(700)]
    page = Page("Problems")
    add_problem_section(page, problems)
    text = check_page(page.render()).visible_text()
    assert "700 findings, the first 500 of them below" in text
