"""Makes the table of countries' names of Unicode CLDR. Run where `babel` is installed, when CLDR has new names:

python -m tests.golden.countries >aisolution_async/inputs/countries.txt
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from phonenumbers import SUPPORTED_REGIONS

LANGUAGES = ("en", "id", "ms", "fil", "vi", "hi_Latn")
ENDED = {"BUR", "DDR", "FXX", "TMP", "YMD", "ZAR"}  # ISO 3166-1 codes of countries that have another one now


def main() -> None:
    babel: Any = import_module("babel")  # which nothing else here needs
    aliases = import_module("babel.core").get_global("territory_aliases")
    own = {code: regions[0] for code, regions in aliases.items() if len(regions) == 1 and len(code) == 3}
    iso3 = {region: code for code, region in own.items() if code.isalpha() and code not in ENDED}
    names = [babel.Locale.parse(language).territories for language in LANGUAGES]
    notice = Path(babel.__file__).with_name("locale-data") / "LICENSE.unicode"
    print(f"# Countries: ISO 3166-1 alpha-2, alpha-3, and the names in {', '.join(LANGUAGES)} as in Unicode CLDR")
    print(f"# (babel {babel.__version__}), made by tests/golden/countries.py.\n#")
    print("\n".join(f"# {line}".rstrip() for line in notice.read_text(encoding="utf-8").strip().splitlines()))
    for code in sorted(SUPPORTED_REGIONS):
        known = dict.fromkeys(each[code] for each in names if code in each)
        print(code, iso3.get(code, "---"), "; ".join(known))


if __name__ == "__main__":
    main()
