"""What a model is for, one file each: frozen values behind the protocol of `tasks.task`.

`Tasks` is the union of all; a recipe names one.
"""

from vitrail.tasks.audio import Audio
from vitrail.tasks.classification import Classification
from vitrail.tasks.detection import Detection
from vitrail.tasks.image_text import ImageText
from vitrail.tasks.instances import Instances
from vitrail.tasks.lidar import Lidar
from vitrail.tasks.multilabel import MultiLabel
from vitrail.tasks.multimodal import MultiModal
from vitrail.tasks.open_vocabulary import OpenVocabulary
from vitrail.tasks.segmentation import Segmentation
from vitrail.tasks.series import Series
from vitrail.tasks.video import Video
from vitrail.tasks.waveform import Waveform

Tasks = (
    Classification | MultiLabel | Segmentation | Detection | Instances | Series | Video | Audio
    | Waveform | ImageText | Lidar | MultiModal | OpenVocabulary
)  # fmt: skip
