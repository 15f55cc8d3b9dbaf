//! `index.html`: products and versions, and a link to the project's own site.
//! No fingerprint and no key to import: trust never comes from a mirror.

use std::fmt::Write as _;

use crate::manifest::Product;
use crate::manifest::bundle;
use crate::tuf::ProductRole;

/// Renders the page.
pub fn render(repository: &str, site: Option<&str>, products: &[(Product, ProductRole)]) -> Vec<u8> {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Releases</title>\n\
         <style>body{font-family:sans-serif;max-width:46em;margin:2em auto;padding:0 1em}</style>\n\
         </head>\n<body>\n<h1>Releases</h1>\n",
    );
    let _ = writeln!(
        page,
        "<p>These files are a copy of {}. This server is not trusted: verify what you download with \
         <code>release verify</code>.</p>",
        escape(repository)
    );
    if let Some(site) = site {
        let _ = writeln!(page, "<p>How to do that: <a href=\"{0}\">{0}</a></p>", escape(site));
    }
    for (product, listing) in products {
        let _ = write!(page, "<h2>{product}</h2>\n<ul>\n");
        for (version, files) in listing.releases.iter().rev() {
            let _ = write!(page, "<li>{version}\n<ul>\n");
            for name in files.keys() {
                let _ = writeln!(page, "<li><a href=\"releases/{product}/{version}/{name}\">{name}</a></li>");
            }
            page.push_str("</ul>\n</li>\n");
        }
        page.push_str("</ul>\n");
        let (bundle, path) = (bundle::current(product), bundle::current_path(product));
        let _ = writeln!(page, "<p>To verify them without network: <a href=\"{path}\">{bundle}</a></p>");
    }
    page.push_str("</body>\n</html>\n");
    page.into_bytes()
}

/// Text in HTML, also in attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn foreign_text_is_escaped() {
        let page = super::render("https://x/\"><script>", Some("javascript\"<x"), &[]);
        let page = String::from_utf8(page).unwrap();
        assert!(!page.contains("<script>") && !page.contains("\"<x"));
    }
}
