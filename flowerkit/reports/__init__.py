"""What people read about finished runs: report.html, its pictures, and the templates of all pages.

Reads run folders; trains nothing, and computes only what a page shows.

    run_report  report.html and the pictures beside it
    charts      curves and calibration as SVG, in the page's own colours
    pictures    photos as small encoded pictures
    rendering   values + templates/*.html.j2 + style.css -> one HTML file, everything escaped
    templates/  the HTML of report, comparison and contest page (values: experiments/), serve (deploy/)
"""

from flowerkit.lazy import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "run_report": "read_data write_pictures write_report",
        "charts": "Chart draw_experiments",
        "pictures": "Picture encode_photos to_data_uri",
        "rendering": "render",
    },
)
