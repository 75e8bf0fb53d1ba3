"""Messages are printed in a few lines, however many numbers they hold."""

from hessian_spectrum.api_schemas.spectrum_results import Band, Density, Interval, Quadrature


def density(num_points: int) -> Density:
    numbers = [index / 7 for index in range(num_points)]
    return Density(grid=numbers, values=numbers, standard_error=numbers, band=Band(lower=numbers, upper=numbers))


def test_long_lists_are_abbreviated_and_keep_their_numbers() -> None:
    many = density(100_000)
    assert len(repr(many)) < 800
    assert "[0.0, 0.14285714285714285, ..., 14285.57142857143] (100,000 entries)" in repr(many)
    assert len(str(many)) < 800
    assert len(many.grid) == 100_000
    assert many == Density.model_validate_json(many.model_dump_json())


def test_short_lists_and_single_values_are_printed_in_full() -> None:
    assert repr(Interval(lower=1.0, upper=None, why="no end")) == "Interval(lower=1.0, upper=None, why='no end')"
    few = Quadrature(nodes=[0.5, 2.0], weights=[0.25, 0.75], residuals=None)
    assert repr(few) == "Quadrature(nodes=[0.5, 2.0], weights=[0.25, 0.75], residuals=None, node_error=0.0)"


def test_lists_of_messages_are_abbreviated_at_every_level() -> None:
    inner = Quadrature(nodes=[float(index) for index in range(1000)], weights=[0.001] * 1000, residuals=None)
    assert len(repr([inner] * 3)) < 1000
