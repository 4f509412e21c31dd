import threading

from feature_store.online import StoredPrediction
from services.recommend.predictions import MAX_WAITING, PredictionKeeper


def prediction(number: int) -> StoredPrediction:
    return StoredPrediction(str(number), "u", "v", number)


def test_what_waits_can_be_asked_for_and_is_written_together_in_order():
    gate, written = threading.Event(), []

    def write(together):
        gate.wait()
        written.append([each.prediction_id for each in together])
        return True

    keeper = PredictionKeeper(write)
    keeper.keep([prediction(n) for n in range(50)])
    assert keeper.waiting("49") == prediction(49)
    gate.set()
    keeper.close()
    assert [each for together in written for each in together] == [str(n) for n in range(50)]
    assert len(written) <= 50
    assert keeper.waiting("49") is None


def test_what_cannot_be_kept_is_counted_and_memory_stays_bounded():
    gate, lost = threading.Event(), []

    def write(together):
        gate.wait()
        return False

    keeper = PredictionKeeper(write, lost=lost.append)
    keeper.keep([prediction(n) for n in range(MAX_WAITING + 7)])
    assert lost == [7]
    gate.set()
    keeper.close()
    assert sum(lost) == MAX_WAITING + 7
