"""English words that carry no meaning of their own."""

_WORDS = """
a an and any are as at be been but by can could did do does for from had has have how i if in into is it its may might
must no not of on one or our shall should so some such than that the their them then there these they this those to was
we were what when where which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_WORDS.split())

# Of languages without spaces: what asks, and what joins; taken out of a text before it is cut in pieces.
_UNSPACED = """
什么时候 什麼時候 什么 什麼 甚麼 怎么 怎麼 怎样 怎樣 为什么 為什麼 为何 為何 哪里 哪裡 哪裏 哪儿 哪个 哪個 哪些 哪
谁 誰 多少 几 幾 吗 嗎 呢 的 了 是 在 与 與 及 或 之 这 這 那 们 們 请问 請問
ですか ますか でしたか ましたか でしょうか です ます でした ました である であった どこ いつ
だれ どれ なに なぜ どの どのような どう 何 は を が に の と で も へ から まで
อะไร ใคร ที่ไหน เมื่อไร เมื่อใด เมื่อไหร่ อย่างไร เท่าไร เท่าไหร่ กี่ ใด ไหน คือ เป็น ของ และ ใน มี ได้ ที่ ซึ่ง กับ หรือ
ແມ່ນ ຫຍັງ ໃຜ ໃສ ເມື່ອໃດ ແນວໃດ ຈັກ ໃດ ຂອງ ແລະ ໃນ ທີ່ ເປັນ
អ្វី អ្នកណា ណា នរណា ប៉ុន្មាន យ៉ាងណា ជា របស់ និង នៅ ដែល ក្នុង
ဘာ ဘယ် ဘယ်သူ မည်သည့် မည်သူ ဘယ်မှာ ဘယ်နှစ် လဲ သည် ၏ များ တွင် နှင့် ဖြစ်သည် သော
"""
UNSPACED_STOP_WORDS = frozenset(_UNSPACED.split())
