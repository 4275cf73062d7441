"""Start Ray actors and feed them units of work; knows nothing of video. The policy, the run's state and the dispatcher
import no Ray and are tested on a simulated cluster.

May import the rooms vace (training) and storage.
"""
