"""An executed notebook as one HTML page: its widgets and plotly charts stay alive, and it makes no network request.

nbconvert alone shows neither widgets nor plotly charts without a network. Here it renders text, code and plain outputs;
widget views and figures become placeholders that the host script of `vpdlab_widgets` and `page.js` fill in the browser.
`tables.js` gives each table a corner that saves its rows.

A notebook may come from someone else, so nothing in it is trusted: the HTML that nbconvert makes of it is reduced to a
list of allowed elements, widgets take their data from the notebook and their code from the installed `vpdlab_widgets`,
and the page's policy runs only scripts whose hash it lists.

reading: the notebook file. outputs: widgets and figures. markdown: text and formulas. writing: the page. composing: a
page of texts and figures. exporter: for nbconvert and JupyterLab's export menu.
"""

from vpdlab.show.page.composing import write_parts
from vpdlab.show.page.writing import notebook_to_page

__all__ = ["notebook_to_page", "write_parts"]
