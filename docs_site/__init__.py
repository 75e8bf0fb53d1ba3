"""The build of the documentation as a site (`make docs`): generated parts, links and extensions."""
