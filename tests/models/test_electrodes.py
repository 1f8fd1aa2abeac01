import torch

from milmer.models.electrodes import ElectrodeTable, PositionEmbedding, median_by_place


def test_unseen_electrodes_get_the_median(places):
    table = ElectrodeTable(torch.tensor([7.0]))
    assert (table(places(4)[None]) == 7).all()
    where = places(3)
    table.fit(where, torch.tensor([[1.0], [2.0], [9.0]]))
    asked = torch.cat([where.flip(0) + 0.001, -where[:1]])[None]
    assert table(asked)[0, :, 0].tolist() == [9, 2, 1, 2]


def test_the_table_grows_to_what_it_loads(places):
    one, two = ElectrodeTable(torch.zeros(2)), ElectrodeTable(torch.zeros(2))
    one.fit(places(5), torch.randn(5, 2))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(places(5)[None]), two(places(5)[None]))


def test_median_and_spread_by_place():
    where = torch.tensor([[0.0, 0, 1], [1, 0, 0]]).repeat(5, 1)
    values = torch.arange(10.0)[:, None] * torch.tensor([1.0, -1.0])
    grid, centre, spread = median_by_place([where[:4], where[4:]], [values[:4], values[4:]])
    assert grid.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert centre.tolist() == [[4, -4], [5, -5]]
    torch.testing.assert_close(spread, torch.full((2, 2), 2 * 1.4826))


def test_neighbours_are_embedded_alike(places):
    torch.manual_seed(0)
    embed = PositionEmbedding(16)
    where = places(20)[None]
    near, far = embed(where + 0.01), embed(where.flip(1))
    assert (embed(where) - near).norm() < 0.3 * (embed(where) - far).norm()
